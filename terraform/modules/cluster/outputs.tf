output "cluster" {
  description = "What pools and pods need of the cluster."
  value = {
    id            = google_container_cluster.cluster.id
    name          = google_container_cluster.cluster.name
    location      = google_container_cluster.cluster.location
    node_account  = google_service_account.node.email
    zones         = var.zones
    workload_pool = "${var.project_id}.svc.id.goog"
  }
}

output "node_member" {
  description = "The nodes as IAM writes them: a reader of the image registry."
  value       = google_service_account.node.member
}
