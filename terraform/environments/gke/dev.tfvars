# Where the team works: everything is kept, GPUs come when asked for.
environment         = "dev"
zones               = ["us-central1-a", "us-central1-b"]
deletion_protection = true
log_days            = 30
databases           = { tier = "db-custom-1-3840" }

pools = {
  system   = { machine_type = "e2-standard-4", min_nodes = 2, max_nodes = 5 }
  steps    = { machine_type = "e2-highmem-8", max_nodes = 3 }
  l4       = { machine_type = "g2-standard-12", max_nodes = 2 }
  l4-steps = { machine_type = "g2-standard-12", max_nodes = 4, provisioning = "spot" }
  a100     = { machine_type = "a2-highgpu-1g", max_nodes = 1 }
}
