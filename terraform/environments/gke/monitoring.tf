module "monitoring" {
  source = "../../modules/monitoring"

  project_id = module.project_services.project_id
  name       = local.name
  region     = var.region
  cluster    = module.cluster.cluster.name
  emails     = var.monitoring.emails
  log_days   = var.log_days
  thresholds = var.monitoring.thresholds
  budget     = var.monitoring.budget
}
