# What `slipway` and the manifests read: `terraform output -raw platform_env`. README.md explains each line.
locals {
  platform = merge(
    {
      # read by the command line (.env.example)
      SLIPWAY_REGISTRY       = module.registry.address
      VERTEX_PROJECT         = var.vertex ? module.project_services.project_id : ""
      VERTEX_LOCATION        = var.vertex ? var.region : ""
      VERTEX_PIPELINE_ROOT   = var.vertex ? "${module.storage.urls["pipelines"]}/vertex" : ""
      VERTEX_SERVICE_ACCOUNT = var.vertex ? module.workload_identity.accounts["steps"].email : ""

      # read by the manifests
      PLATFORM_ENVIRONMENT        = var.environment
      PLATFORM_PROJECT            = module.project_services.project_id
      PLATFORM_LOCATION           = module.cluster.cluster.location
      PLATFORM_CLUSTER            = module.cluster.cluster.name
      PLATFORM_NODES_RANGE        = module.network.network.nodes_range
      PLATFORM_PROXIES_RANGE      = module.network.network.proxies_range
      PLATFORM_DATA               = module.storage.urls["data"]
      PLATFORM_CHECKPOINTS        = module.storage.urls["checkpoints"]
      PLATFORM_RELEASES           = module.storage.urls["releases"]
      PLATFORM_PIPELINES          = module.storage.urls["pipelines"]
      PLATFORM_SECRETS            = join(",", module.secrets.names)
      PLATFORM_DATABASE_PIPELINES = try(module.database.instances["pipelines"].connection, "")
      PLATFORM_DATABASE_MLFLOW    = try(module.database.instances["mlflow"].connection, "")
      PLATFORM_ACCOUNT_SUBMIT     = "${local.name}-submit@${var.project_id}.iam.gserviceaccount.com"
    },
    { for key, account in module.workload_identity.accounts : "PLATFORM_ACCOUNT_${upper(key)}" => account.email },
    { for key in ["hostname", "address", "ip", "certificate_map", "ssl_policy", "security_policy"] :
    "PLATFORM_EDGE_${upper(key)}" => try(module.edge[0].edge[key], "") },
    {
      PLATFORM_EDGE_IAP        = tostring(!try(var.edge.public, true))
      PLATFORM_EDGE_IAP_CLIENT = try(var.edge.iap_client_id, "")
    },
  )
}

output "platform" {
  description = "What the command line and the manifests need, by the names of the environment file."
  value       = local.platform
}

output "platform_env" {
  description = "The same as one file of NAME=VALUE lines: `set -a; . FILE; set +a`, and Kustomize's `envs`."
  value       = join("", [for name, value in local.platform : "${name}=${value}\n"])
}

output "credentials_command" {
  description = "Makes kubectl speak to the cluster."
  value       = "gcloud container clusters get-credentials ${module.cluster.cluster.name} --project ${var.project_id} --location ${module.cluster.cluster.location} --dns-endpoint"
}

output "gpu_quota" {
  description = "GPU type -> how many the pools may hold together; `gcloud compute regions describe` says what the project has."
  value       = module.node_pools.gpus_at_most
}

output "dns_records" {
  description = "What to write into the DNS zone: the address, and the record that proves the name to Google."
  value = var.edge == null ? null : {
    address     = { name = var.edge.hostname, type = "A", data = module.edge[0].edge.ip }
    certificate = module.edge[0].certificate_record
  }
}

output "log_bucket" {
  description = "Where server's and steps' log lines are kept."
  value       = module.monitoring.log_bucket
}
