# The only way from a node to the internet: model hubs, container registries of others.
resource "google_compute_router" "router" {
  project = var.project_id
  name    = var.name
  region  = var.region
  network = google_compute_network.network.id
}

resource "google_compute_router_nat" "nat" {
  project                             = var.project_id
  name                                = var.name
  region                              = var.region
  router                              = google_compute_router.router.name
  nat_ip_allocate_option              = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat  = "LIST_OF_SUBNETWORKS"
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false # does not go with dynamic ports
  min_ports_per_vm                    = 64
  max_ports_per_vm                    = 4096 # a fetch of 16 streams from every pod of a node

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}
