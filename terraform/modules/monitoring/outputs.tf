output "log_bucket" {
  description = "Where the lines are: the bucket's id for Logs Explorer and Log Analytics."
  value       = try(google_logging_project_bucket_config.logs[0].id, "projects/${var.project_id}/locations/global/buckets/_Default")
}
