# Google's implied rule drops what no rule lets in, without a word; this one says so in the logs.
resource "google_compute_firewall" "deny" {
  project       = var.project_id
  name          = "${var.name}-deny"
  description   = "What no other rule lets in"
  network       = google_compute_network.network.id
  direction     = "INGRESS"
  priority      = 65534
  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }

  log_config {
    metadata = "INCLUDE_ALL_METADATA"
  }
}

# GKE makes rules for its own webhook ports only (443, 10250); KServe and KEDA listen elsewhere.
resource "google_compute_firewall" "webhooks" {
  project       = var.project_id
  name          = "${var.name}-webhooks"
  description   = "From the control plane, whose private address is in the nodes' range, to webhooks in pods"
  network       = google_compute_network.network.id
  direction     = "INGRESS"
  priority      = 1000
  source_ranges = [var.ranges.nodes]
  target_tags   = [local.node_tag]

  allow {
    protocol = "tcp"
    ports    = [for port in var.webhook_ports : tostring(port)]
  }
}

# https://cloud.google.com/load-balancing/docs/health-checks#firewall_rules: where Google's checks and proxies come from.
resource "google_compute_firewall" "load_balancers" {
  project       = var.project_id
  name          = "${var.name}-load-balancers"
  description   = "From Google's load balancers and health checks, and the internal ones' proxies, to model servers"
  network       = google_compute_network.network.id
  direction     = "INGRESS"
  priority      = 1000
  source_ranges = ["130.211.0.0/22", "35.191.0.0/16", var.ranges.proxies]
  target_tags   = [local.node_tag]

  allow {
    protocol = "tcp"
    ports    = ["8080"]
  }
}
