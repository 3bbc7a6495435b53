output "project_id" {
  description = "The project, once its APIs are on: what uses it waits for them."
  value       = var.project_id
  depends_on  = [google_project_service.service]
}
