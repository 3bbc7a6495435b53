output "address" {
  description = "What stands before an image's name: LOCATION-docker.pkg.dev/PROJECT/NAME (SLIPWAY_REGISTRY)."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${var.project_id}/${google_artifact_registry_repository.images.repository_id}"
}
