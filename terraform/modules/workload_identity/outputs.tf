output "accounts" {
  description = "Key -> the Google account: `email` for the annotation iam.gke.io/gcp-service-account, `member` for IAM, and the Kubernetes account."
  value = { for key, account in google_service_account.account : key => {
    email     = account.email
    member    = account.member
    namespace = var.accounts[key].namespace
    name      = var.accounts[key].name
  } }
}
