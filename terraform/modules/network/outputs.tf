output "network" {
  description = "What the cluster and its policies need of the network: ids of network and subnet, names of the pods' and services' ranges, the nodes' tag, the ranges of nodes and proxies."
  value = {
    id             = google_compute_network.network.id
    subnet         = google_compute_subnetwork.nodes.id
    pods_range     = local.range_names.pods
    services_range = local.range_names.services
    node_tag       = local.node_tag
    nodes_range    = google_compute_subnetwork.nodes.ip_cidr_range
    proxies_range  = google_compute_subnetwork.proxies.ip_cidr_range
  }
}

output "private_services_network" {
  description = "Id of the network, once Google's private services are peered with it: databases wait for that."
  value       = google_compute_network.network.id
  depends_on  = [google_service_networking_connection.private_services]
}
