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
