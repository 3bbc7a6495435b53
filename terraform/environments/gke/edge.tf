module "edge" {
  source = "../../modules/edge"
  count  = var.edge == null ? 0 : 1

  project_id = module.project_services.project_id
  name       = local.name
  hostname   = var.edge.hostname
  users      = var.edge.users
  rate_limit = var.edge.rate_limit
}
