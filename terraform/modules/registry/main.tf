resource "google_artifact_registry_repository" "images" {
  # checkov:skip=CKV_GCP_84: Google's own keys encrypt it; keys of one's own are an organisation's decision

  project                = var.project_id
  location               = var.location
  repository_id          = var.name
  description            = "Slipway's images; deployments name them by digest"
  format                 = "DOCKER"
  cleanup_policy_dry_run = false

  docker_config {
    immutable_tags = var.immutable_tags
  }

  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }

  # a KEEP wins over a DELETE
  dynamic "cleanup_policies" {
    for_each = var.expire_days == null ? [var.keep.recent] : []
    content {
      id     = "keep-recent"
      action = "KEEP"
      most_recent_versions {
        keep_count = cleanup_policies.value
      }
    }
  }

  cleanup_policies {
    id     = var.expire_days == null ? "delete-untagged" : "delete-old"
    action = "DELETE"
    condition {
      tag_state  = var.expire_days == null ? "UNTAGGED" : "ANY"
      older_than = "${coalesce(var.expire_days, var.keep.untagged_days) * 86400}s"
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "reader" {
  for_each = var.readers

  project    = var.project_id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = each.value
}

resource "google_artifact_registry_repository_iam_member" "writer" {
  for_each = var.writers

  project    = var.project_id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = each.value
}
