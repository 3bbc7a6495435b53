# The values are added by hand or by a job (`gcloud secrets versions add`): in Terraform they would stand in its state.
resource "google_secret_manager_secret" "secret" {
  for_each = var.secrets

  project             = var.project_id
  secret_id           = each.key
  deletion_protection = var.deletion_protection

  annotations = { description = each.value.description }

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = merge([for key, one in var.secrets : { for name, member in one.readers : "${key} ${name}" => { key = key, member = member } }]...)

  project   = var.project_id
  secret_id = google_secret_manager_secret.secret[each.value.key].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value.member
}
