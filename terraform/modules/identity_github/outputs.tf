output "provider" {
  description = "`workload_identity_provider` of google-github-actions/auth."
  value       = google_iam_workload_identity_pool_provider.github.name
}

output "accounts" {
  description = "Key -> `email`, the `service_account` of google-github-actions/auth, and `member`, as IAM writes it."
  value       = { for key, account in google_service_account.job : key => { email = account.email, member = account.member } }
}
