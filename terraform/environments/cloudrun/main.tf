module "project_services" {
  source = "../../modules/project_services"

  project_id = var.project_id
  services   = ["artifactregistry.googleapis.com", "iam.googleapis.com", "run.googleapis.com", "storage.googleapis.com"]
}

resource "google_cloud_run_v2_service" "server" {
  project             = module.project_services.project_id
  name                = var.service
  location            = var.region
  description         = "One release, on CPU"
  ingress             = "INGRESS_TRAFFIC_ALL" # who may call is IAM's matter: `public`
  deletion_protection = var.deletion_protection

  template {
    service_account                  = local.account
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    max_instance_request_concurrency = var.scaling.concurrency
    timeout                          = "${var.scaling.timeout_seconds}s"

    scaling {
      min_instance_count = var.scaling.min
      max_instance_count = var.scaling.max
    }

    containers {
      name    = "server"
      image   = var.image
      command = local.command
      args    = local.arguments

      ports {
        container_port = 8080 # Cloud Run says so in PORT, which the server reads
      }

      resources {
        limits            = { cpu = var.resources.cpu, memory = var.resources.memory }
        cpu_idle          = true # billed while it answers
        startup_cpu_boost = true
      }

      dynamic "env" {
        for_each = local.settings
        content {
          name  = env.key
          value = env.value
        }
      }

      # /health answers 200 once the release is fetched, verified and loaded; Cloud Run waits four minutes at most
      startup_probe {
        period_seconds    = 5
        timeout_seconds   = 5
        failure_threshold = 48
        http_get {
          path = "/health"
          port = 8080
        }
      }

      liveness_probe {
        period_seconds    = 30
        timeout_seconds   = 10
        failure_threshold = 3
        http_get {
          path = "/health"
          port = 8080
        }
      }
    }
  }

  dynamic "traffic" {
    for_each = length(var.traffic) == 0 ? [true] : []
    content {
      type    = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
      percent = 100
    }
  }

  dynamic "traffic" {
    for_each = var.traffic
    content {
      type     = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
      revision = traffic.key
      percent  = traffic.value
    }
  }
}

locals {
  baked   = var.release.baked != null
  fetched = "/tmp/release" # in memory, as all that a container on Cloud Run writes

  serve = ["python", "-m", "serving", "--model", var.service, "--release"]

  # Addresses go by the environment, so that no shell reads them.
  command   = local.baked ? ["python"] : ["sh", "-c"]
  arguments = local.baked ? concat(slice(local.serve, 1, 6), [var.release.baked]) : ["python -m serving.fetch \"$RELEASE_URI\" ${local.fetched} && exec ${join(" ", local.serve)} ${local.fetched}"]

  settings = merge(
    {
      HOST                  = "0.0.0.0"
      SLIPWAY_MAX_RUNNING   = tostring(var.scaling.concurrency)
      SLIPWAY_DRAIN_SECONDS = "8" # Cloud Run ends a container ten seconds after SIGTERM
    },
    local.baked ? {} : { RELEASE_URI = var.release.fetch },
  )
}

resource "google_cloud_run_v2_service_iam_member" "public" {
  count = var.public ? 1 : 0

  project  = google_cloud_run_v2_service.server.project
  location = google_cloud_run_v2_service.server.location
  name     = google_cloud_run_v2_service.server.name
  role     = "roles/run.invoker"
  member   = "allUsers"
}
