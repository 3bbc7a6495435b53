output "cloud_run_url" {
  description = "Where the chat page and the API are."
  value       = google_cloud_run_v2_service.server.uri
}

output "revision" {
  description = "The newest revision that is ready: what to name in `traffic` to come back to it."
  value       = google_cloud_run_v2_service.server.latest_ready_revision
}

output "service_account" {
  description = "Who the server is."
  value       = local.account
}
