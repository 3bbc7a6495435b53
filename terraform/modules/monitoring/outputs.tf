output "log_bucket" {
  description = "Where the lines are: the bucket's id for Logs Explorer and Log Analytics."
  value       = google_logging_project_bucket_config.logs.id
}
