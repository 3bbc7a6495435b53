# Kubernetes accounts that act as Google accounts. Those in slipway-* are made by manifests/base/accounts.yaml, the
# others by Kubeflow's and MLflow's own manifests.
module "workload_identity" {
  source = "../../modules/workload_identity"

  project_id    = module.project_services.project_id
  prefix        = local.name
  workload_pool = module.cluster.cluster.workload_pool
  accounts = {
    steps = {
      namespace     = "slipway-pipelines"
      name          = "pipeline-step"
      description   = "Every task of a pipeline's run"
      project_roles = var.vertex ? ["roles/aiplatform.user"] : []
    }
    janitor   = { namespace = "slipway-pipelines", name = "rollout-janitor", description = "Ends what dead rollouts left" }
    predictor = { namespace = "slipway-serving", name = "predictor", description = "Model servers: they read releases" }
    kfp = {
      namespace     = "kubeflow"
      name          = "ml-pipeline"
      description   = "Kubeflow Pipelines' API server"
      project_roles = local.database_roles
    }
    dashboard = { namespace = "kubeflow", name = "ml-pipeline-ui", description = "Kubeflow's dashboard: it shows artifacts" }
    mlflow = {
      namespace     = "slipway-system"
      name          = "mlflow"
      description   = "The tracking server"
      project_roles = local.database_roles
    }
  }
}

locals {
  database_roles = var.databases == null ? [] : ["roles/cloudsql.client", "roles/cloudsql.instanceUser"]

  members = { for key, account in module.workload_identity.accounts : key => account.member }
}

# Accounts of GitHub's jobs that are given something here. environments/github makes them, by these names; in a preview
# this environment is made and destroyed by one of them.
locals {
  github = var.github ? { for key in ["demo", "release", "submit"] : key => "serviceAccount:${local.name}-${key}@${var.project_id}.iam.gserviceaccount.com" } : {}
}

# A run on Vertex AI acts as the steps' account, which whoever submits it must be allowed to say.
resource "google_service_account_iam_member" "vertex" {
  count = var.vertex && var.github ? 1 : 0

  service_account_id = "projects/${var.project_id}/serviceAccounts/${module.workload_identity.accounts["steps"].email}"
  role               = "roles/iam.serviceAccountUser"
  member             = local.github["submit"]
}

resource "google_project_iam_member" "vertex" {
  count = var.vertex && var.github ? 1 : 0

  project = module.project_services.project_id
  role    = "roles/aiplatform.user"
  member  = local.github["submit"]
}
