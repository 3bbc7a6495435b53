output "gpus_at_most" {
  description = "GPU type -> how many the pools may hold together: the quota that the project needs."
  value = { for type in distinct([for gpu in values(local.gpus) : gpu.type if gpu != null]) : type => sum([
    for name, pool in google_container_node_pool.pool : local.gpus[name].count * pool.autoscaling[0].total_max_node_count
    if try(local.gpus[name].type, "") == type
  ]) }
}
