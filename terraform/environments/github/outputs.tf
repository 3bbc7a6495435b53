output "settings" {
  description = "What the workflows need to know, as one variable of the repository: SLIPWAY_DEV, SLIPWAY_PROD or SLIPWAY_EPHEMERAL (README.md)."
  value = {
    project_id                 = module.project_services.project_id
    region                     = var.region
    cluster                    = local.name
    state_bucket               = var.state_bucket
    preview_registry           = module.previews.address
    workload_identity_provider = module.identity_github.provider
    demo_service_account       = google_service_account.demo.email
    service_accounts           = { for key, account in module.identity_github.accounts : key => account.email }
  }
}
