locals {
  name   = "slipway-${local.short}"
  short  = { ephemeral = "eph", dev = "dev", prod = "prod" }[var.environment] # accounts' names end at 30 characters
  labels = { app = "slipway", environment = var.environment }

  # whose images may run here: previews have a cluster of their own
  registries = concat([module.registry.address], var.environment == "ephemeral" && var.github ? ["${var.region}-docker.pkg.dev/${var.project_id}/${local.name}-previews"] : [])
}

module "project_services" {
  source = "../../modules/project_services"

  project_id = var.project_id
  services = concat(var.vertex ? ["aiplatform.googleapis.com"] : [], [
    "artifactregistry.googleapis.com",
    "billingbudgets.googleapis.com",
    "binaryauthorization.googleapis.com",
    "certificatemanager.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "container.googleapis.com",
    "containerfilesystem.googleapis.com", # image streaming
    "containerscanning.googleapis.com",
    "containersecurity.googleapis.com",
    "file.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "iap.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "secretmanager.googleapis.com",
    "servicenetworking.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ])
}

module "network" {
  source = "../../modules/network"

  project_id = module.project_services.project_id
  name       = local.name
  region     = var.region
  ranges     = var.ranges
}

module "cluster" {
  source = "../../modules/cluster"

  project_id          = module.project_services.project_id
  name                = local.name
  region              = var.region
  zones               = var.zones
  network             = module.network.network
  control_plane       = var.control_plane
  deletion_protection = var.deletion_protection
  labels              = local.labels
  images = {
    mode      = var.images.mode
    allowed   = concat([for address in local.registries : "${address}/**"], var.images.allowed)
    attestors = var.images.attestors
  }
}

module "node_pools" {
  source = "../../modules/node_pools"

  project_id = module.project_services.project_id
  cluster    = module.cluster.cluster
  node_tag   = module.network.network.node_tag
  pools      = var.pools
}
