module "registry" {
  source = "../../modules/registry"

  project_id     = module.project_services.project_id
  location       = var.region
  name           = local.name
  immutable_tags = var.images.immutable_tags
  readers        = { nodes = module.cluster.node_member }
  writers        = { for key, member in local.github : key => member if key == "release" }
}

# What previews run. Nothing else pulls from there in an environment that is kept.
resource "google_artifact_registry_repository_iam_member" "previews" {
  count = var.github && var.environment == "ephemeral" ? 1 : 0

  project    = module.project_services.project_id
  location   = var.region
  repository = "${local.name}-previews"
  role       = "roles/artifactregistry.reader"
  member     = module.cluster.node_member
}

module "storage" {
  source = "../../modules/storage"

  project_id = module.project_services.project_id
  prefix     = "${var.project_id}-${local.short}"
  location   = var.region
  buckets = {
    data = {
      force_destroy = !var.deletion_protection
      access        = { steps = { role = "reader", member = local.members.steps } }
    }
    # Of jobs of one's own: the pipeline's steps keep theirs in the store, which is a volume.
    checkpoints = {
      versioning        = false # large, and each replaces the one before
      soft_delete_days  = 0
      delete_after_days = 14
      force_destroy     = !var.deletion_protection
    }
    # A release is written once, whole, and never again.
    releases = {
      noncurrent_days = 90
      force_destroy   = !var.deletion_protection
      access = merge({
        steps     = { role = "reader", member = local.members.steps }
        publisher = { role = "creator", member = local.members.steps }
        janitor   = { role = "reader", member = local.members.janitor }
        predictor = { role = "reader", member = local.members.predictor }
      }, { for key, member in local.github : key => { role = "reader", member = member } if key == "demo" })
    }
    # Kubeflow's artifacts, and MLflow's
    pipelines = {
      delete_after_days = var.deletion_protection ? null : 30
      force_destroy     = !var.deletion_protection
      access = {
        steps     = { role = "writer", member = local.members.steps }
        kfp       = { role = "writer", member = local.members.kfp }
        dashboard = { role = "reader", member = local.members.dashboard }
        mlflow    = { role = "writer", member = local.members.mlflow }
      }
    }
  }
}

module "database" {
  source = "../../modules/database"

  project_id          = module.project_services.project_id
  prefix              = local.name
  region              = var.region
  network             = module.network.private_services_network
  deletion_protection = var.deletion_protection
  instances = var.databases == null ? {} : {
    pipelines = merge(var.databases, {
      version  = "MYSQL_8_0"
      database = "mlpipeline"
      users    = { kfp = module.workload_identity.accounts["kfp"].email }
    })
    mlflow = merge(var.databases, {
      version  = "POSTGRES_17"
      database = "mlflow"
      users    = { mlflow = module.workload_identity.accounts["mlflow"].email }
    })
  }
}

module "secrets" {
  source = "../../modules/secrets"

  project_id          = module.project_services.project_id
  region              = var.region
  deletion_protection = var.deletion_protection
  secrets = {
    "${local.name}-hugging-face" = {
      description = "Token of the Hugging Face Hub, for gated base models"
    }
  }
}
