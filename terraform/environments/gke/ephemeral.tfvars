# Made for a test of the whole platform, destroyed after it. Costs the least while it stands.
environment         = "ephemeral"
zones               = ["us-central1-a"]
deletion_protection = false
log_days            = null # a bucket of its own could not be made again for a week
databases           = null # in pods: nothing is kept

pools = {
  system   = { machine_type = "e2-standard-4", min_nodes = 1, max_nodes = 3 }
  steps    = { machine_type = "e2-highmem-8", max_nodes = 1 }
  l4-steps = { machine_type = "g2-standard-12", max_nodes = 1, provisioning = "spot" }
}
