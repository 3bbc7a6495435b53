# Who the nodes are. Pods are somebody else: the module workload_identity.
resource "google_service_account" "node" {
  project      = var.project_id
  account_id   = "${var.name}-node"
  display_name = "Nodes of ${var.name}"
}

# Logs and metrics of the node itself, and nothing more; images: the module registry names this account a reader.
resource "google_project_iam_member" "node" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.node.member
}
