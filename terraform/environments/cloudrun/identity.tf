# Who the server is: nobody, but that it may read the one bucket from which it fetches.
resource "google_service_account" "server" {
  count = var.service_account == null ? 1 : 0

  project      = module.project_services.project_id
  account_id   = "${var.service}-run"
  display_name = "Cloud Run: ${var.service}"
}

resource "google_storage_bucket_iam_member" "releases" {
  count = var.service_account == null && startswith(coalesce(var.release.fetch, "baked"), "gs://") ? 1 : 0

  bucket = split("/", var.release.fetch)[2]
  role   = "roles/storage.objectViewer"
  member = google_service_account.server[0].member
}

locals {
  account = var.service_account == null ? google_service_account.server[0].email : var.service_account
}
