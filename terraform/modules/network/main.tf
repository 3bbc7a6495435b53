resource "google_compute_network" "network" {
  project                 = var.project_id
  name                    = var.name
  description             = "Slipway: nodes, databases and load balancers of one environment"
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"
}

resource "google_compute_subnetwork" "nodes" {
  project                  = var.project_id
  name                     = "${var.name}-nodes"
  region                   = var.region
  network                  = google_compute_network.network.id
  ip_cidr_range            = var.ranges.nodes
  private_ip_google_access = true # nodes have no public address, and reach Google's APIs all the same

  secondary_ip_range {
    range_name    = local.range_names.pods
    ip_cidr_range = var.ranges.pods
  }

  secondary_ip_range {
    range_name    = local.range_names.services
    ip_cidr_range = var.ranges.services
  }

  log_config {
    aggregation_interval = "INTERVAL_5_MIN"
    flow_sampling        = var.flow_log_sampling
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# Where the proxies of internal load balancers have their addresses: the gateway of an environment without a public door.
resource "google_compute_subnetwork" "proxies" {
  # checkov:skip=CKV_GCP_26: Google takes no flow logs for a subnet of proxies; the load balancer logs requests
  # checkov:skip=CKV_GCP_74: proxies are Google's own and call no API of Google's
  # checkov:skip=CKV_GCP_76: no address in it is ours; the load balancer answers over IPv4

  project       = var.project_id
  name          = "${var.name}-proxies"
  region        = var.region
  network       = google_compute_network.network.id
  ip_cidr_range = var.ranges.proxies
  purpose       = "REGIONAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

locals {
  range_names = { pods = "pods", services = "services" }
  node_tag    = "${var.name}-node"
}
