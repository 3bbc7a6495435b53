output "names" {
  description = "Names of the secrets, for `gcloud secrets versions add`."
  value       = [for one in google_secret_manager_secret.secret : one.secret_id]
}
