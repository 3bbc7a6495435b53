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

# Accounts of GitHub's jobs, where a repository is named.
module "identity_github" {
  source = "../../modules/identity_github"
  count  = var.github == null ? 0 : 1

  project_id = module.project_services.project_id
  name       = "${local.name}-github"
  prefix     = local.name
  repository = { id = var.github.repository_id, owner_id = var.github.owner_id }
  accounts = {
    release = {
      description = "Pushes images: the workflow release, on main"
      refs        = ["refs/heads/main"]
    }
    plan = {
      description   = "Reads what is there: the workflow infrastructure, on pull requests"
      environments  = ["plan"]
      project_roles = ["roles/viewer", "roles/iam.securityReviewer"]
    }
    submit = {
      description   = "Uploads and starts pipelines: the workflows release and retrain"
      environments  = [var.environment]
      project_roles = concat(["roles/container.developer"], var.vertex ? ["roles/aiplatform.user"] : [])
    }
    preview = {
      description   = "Makes and destroys the Cloud Run demo"
      environments  = ["preview"]
      project_roles = ["roles/run.admin", "roles/serviceusage.serviceUsageAdmin"]
    }
    # May change everything that stands here, rights included: its GitHub environment must ask for a review.
    apply = {
      description  = "Applies this configuration: the workflow infrastructure, after a review"
      environments = ["infrastructure-${var.environment}"]
      project_roles = [
        "roles/artifactregistry.admin",
        "roles/binaryauthorization.policyEditor",
        "roles/certificatemanager.owner",
        "roles/cloudsql.admin",
        "roles/compute.networkAdmin",
        "roles/compute.securityAdmin",
        "roles/container.admin",
        "roles/iam.serviceAccountAdmin",
        "roles/iam.serviceAccountUser",
        "roles/iam.workloadIdentityPoolAdmin",
        "roles/iap.admin",
        "roles/logging.configWriter",
        "roles/monitoring.admin",
        "roles/resourcemanager.projectIamAdmin",
        "roles/secretmanager.admin",
        "roles/serviceusage.serviceUsageAdmin",
        "roles/storage.admin",
      ]
    }
  }
}

# Terraform's own state. Whoever plans reads it and takes its lock; only `apply` writes it. The preview has states of its
# own, and sees of the others that they are there.
locals {
  state = var.github == null ? "" : "projects/_/buckets/${var.github.state_bucket}/objects/slipway"

  state_access = {
    "plan reads"    = { account = "plan", role = "roles/storage.objectViewer", where = "" }
    "plan locks"    = { account = "plan", role = "roles/storage.objectUser", where = "resource.name.startsWith('${local.state}/gke/') && resource.name.endsWith('.tflock') || resource.name.startsWith('${local.state}/plans/')" }
    "preview lists" = { account = "preview", role = "roles/storage.legacyBucketReader", where = "" }
    "preview works" = { account = "preview", role = "roles/storage.objectUser", where = "resource.name.startsWith('${local.state}/cloudrun/')" }
    "apply works"   = { account = "apply", role = "roles/storage.objectUser", where = "" }
  }
}

resource "google_storage_bucket_iam_member" "state" {
  for_each = var.github == null ? {} : local.state_access

  bucket = var.github.state_bucket
  role   = each.value.role
  member = module.identity_github[0].accounts[each.value.account].member

  dynamic "condition" {
    for_each = compact([each.value.where])
    content {
      title      = each.key
      expression = condition.value
    }
  }
}

# A run on Vertex AI acts as the steps' account, which whoever submits it must be allowed to say.
resource "google_service_account_iam_member" "vertex" {
  count = var.vertex && var.github != null ? 1 : 0

  service_account_id = "projects/${var.project_id}/serviceAccounts/${module.workload_identity.accounts["steps"].email}"
  role               = "roles/iam.serviceAccountUser"
  member             = module.identity_github[0].accounts["submit"].member
}

# Who the demo on Cloud Run is. Made here, so that the preview's job needs no right to make accounts, and may act as
# this one alone: acting as any account of the project would be as much as `apply` may.
resource "google_service_account" "demo" {
  count = var.github == null ? 0 : 1

  project      = module.project_services.project_id
  account_id   = "${local.name}-demo"
  display_name = "Demo on Cloud Run"
}

resource "google_service_account_iam_member" "demo" {
  count = var.github == null ? 0 : 1

  service_account_id = google_service_account.demo[0].name
  role               = "roles/iam.serviceAccountUser"
  member             = module.identity_github[0].accounts["preview"].member
}
