# What GitHub's jobs are at Google, with a state of its own: they apply and destroy environments/gke as these accounts,
# which must outlive it. environments/gke grants them what it makes, by the names given here.
locals {
  name  = "slipway-${local.short}"
  short = { ephemeral = "eph", dev = "dev", prod = "prod" }[var.environment] # accounts' names end at 30 characters
}

module "project_services" {
  source = "../../modules/project_services"

  project_id = var.project_id
  services = [
    "artifactregistry.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ]
}

module "identity_github" {
  source = "../../modules/identity_github"

  project_id = module.project_services.project_id
  name       = "${local.name}-github"
  prefix     = local.name
  repository = var.repository
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
      description  = "Uploads and starts pipelines: the workflows release and retrain"
      environments = [var.environment]
    }
    preview = {
      description   = "Makes and destroys the Cloud Run demo"
      environments  = ["preview"]
      project_roles = ["roles/run.admin", "roles/serviceusage.serviceUsageAdmin"]
    }
    # May change everything that environments/gke makes, rights included: its GitHub environment must ask for a review.
    apply = {
      description  = "Applies environments/gke: the workflow infrastructure, after a review"
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

# What brings `submit` to the API server's DNS endpoint, and to nothing behind it: what it may do in the cluster stands
# in manifests/components/gke/submitter.yaml. Google's own roles with this right read every Secret.
resource "google_project_iam_custom_role" "reach_cluster" {
  project     = module.project_services.project_id
  role_id     = "${replace(local.name, "-", "_")}_reach_cluster"
  title       = "Reach the API server"
  permissions = ["container.clusters.connect", "container.clusters.get"]
}

resource "google_project_iam_member" "submit" {
  project = module.project_services.project_id
  role    = google_project_iam_custom_role.reach_cluster.name
  member  = module.identity_github.accounts["submit"].member
}

# Terraform's own state. Whoever plans reads it and takes its lock; only `apply` writes it. The preview has states of its
# own, and sees of the others that they are there.
locals {
  state = "projects/_/buckets/${var.state_bucket}/objects/slipway"

  state_access = {
    "plan reads"    = { account = "plan", role = "roles/storage.objectViewer", where = "" }
    "plan locks"    = { account = "plan", role = "roles/storage.objectUser", where = "resource.name.startsWith('${local.state}/gke/') && resource.name.endsWith('.tflock') || resource.name.startsWith('${local.state}/plans/')" }
    "preview lists" = { account = "preview", role = "roles/storage.legacyBucketReader", where = "" }
    "preview works" = { account = "preview", role = "roles/storage.objectUser", where = "resource.name.startsWith('${local.state}/cloudrun/')" }
    "apply works"   = { account = "apply", role = "roles/storage.objectUser", where = "" }
  }
}

resource "google_storage_bucket_iam_member" "state" {
  for_each = local.state_access

  bucket = var.state_bucket
  role   = each.value.role
  member = module.identity_github.accounts[each.value.account].member

  dynamic "condition" {
    for_each = compact([each.value.where])
    content {
      title      = each.key
      expression = condition.value
    }
  }
}

# What previews run, for as long as they live: pushed before a preview's own environment is made.
module "previews" {
  source = "../../modules/registry"

  project_id     = module.project_services.project_id
  location       = var.region
  name           = "${local.name}-previews"
  immutable_tags = false # a preview that is made again has the same tag
  expire_days    = 1
  writers        = { preview = module.identity_github.accounts["preview"].member }
}

# Who the demo on Cloud Run is. Made here, so that the preview's job needs no right to make accounts, and may act as
# this one alone: acting as any account of the project would be as much as `apply` may.
resource "google_service_account" "demo" {
  project      = module.project_services.project_id
  account_id   = "${local.name}-demo"
  display_name = "Demo on Cloud Run"
}

resource "google_service_account_iam_member" "demo" {
  service_account_id = google_service_account.demo.name
  role               = "roles/iam.serviceAccountUser"
  member             = module.identity_github.accounts["preview"].member
}
