# What users meet. It refuses to be deleted, has no public address without a sign-in, and runs known images alone.
environment         = "prod"
zones               = ["us-central1-a", "us-central1-b", "us-central1-c"]
deletion_protection = true
log_days            = 90
databases           = { tier = "db-custom-2-7680", highly_available = true, disk_gib = 50, backups = 30 }

images = {
  mode = "enforce"
  # beside our own registry and Google's system images: who makes what manifests/upstream.yaml pins
  allowed = [
    "docker.io/kserve/**",
    "gcr.io/cloud-sql-connectors/**",
    "gcr.io/tfx-oss-public/**",
    "ghcr.io/kedacore/**",
    "ghcr.io/kubeflow/**",
    "ghcr.io/mlflow/**",
    "quay.io/argoproj/**",
    "quay.io/brancz/**",
    "quay.io/jetstack/**",
    "registry.k8s.io/**",
  ]
}

pools = {
  system = { machine_type = "e2-standard-4", min_nodes = 3, max_nodes = 9 }
  steps  = { machine_type = "e2-highmem-8", max_nodes = 4 }
  # holds a 72B model in 320 GiB; dear enough that a pod must ask for it (pipelines/placement.py)
  memory   = { machine_type = "n2-highmem-48", max_nodes = 1, taints = [{ key = "slipway.dev/pool", value = "memory", effect = "NO_SCHEDULE" }] }
  l4       = { machine_type = "g2-standard-12", min_nodes = 2, max_nodes = 8 }
  l4-steps = { machine_type = "g2-standard-12", max_nodes = 4, provisioning = "spot" }
  a100     = { machine_type = "a2-highgpu-1g", max_nodes = 2 }
  h100     = { machine_type = "a3-highgpu-1g", max_nodes = 2, provisioning = "flex-start", max_run_seconds = 259200, local_ssds = 2 }
  h100x8   = { machine_type = "a3-highgpu-8g", max_nodes = 2, provisioning = "flex-start", max_run_seconds = 604800, local_ssds = 16 }
}
