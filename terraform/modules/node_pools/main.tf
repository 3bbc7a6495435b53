resource "google_container_node_pool" "pool" {
  # checkov:skip=CKV_GCP_9: on, but where Google takes no repair: flex-start and queued nodes

  for_each = var.pools

  project        = var.project_id
  name           = each.key
  cluster        = var.cluster.id
  node_locations = each.value.zones

  # in each zone: the autoscaler keeps min_nodes, and does not raise a pool that begins below them
  initial_node_count = ceil(each.value.min_nodes / length(coalesce(each.value.zones, var.cluster.zones)))

  autoscaling {
    total_min_node_count = each.value.min_nodes
    total_max_node_count = each.value.max_nodes
    location_policy      = "ANY" # where there is room, for spot and GPUs; spreading pods is the scheduler's work
  }

  management {
    auto_repair  = !local.waits_for_capacity[each.key] # Google takes no repair for flex-start and queued nodes
    auto_upgrade = true
  }

  # a new node first, then an old one goes: what serves is never fewer
  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = 1
    max_unavailable = 0
  }

  network_config {
    enable_private_nodes = true
  }

  dynamic "queued_provisioning" {
    for_each = each.value.provisioning == "queued" ? [true] : []
    content {
      enabled = true
    }
  }

  node_config {
    machine_type     = each.value.machine_type
    spot             = each.value.provisioning == "spot"
    flex_start       = each.value.provisioning == "flex-start"
    max_run_duration = each.value.max_run_seconds == null ? null : "${each.value.max_run_seconds}s"
    disk_type        = each.value.disk.type
    disk_size_gb     = each.value.disk.size_gib
    image_type       = "COS_CONTAINERD"
    service_account  = var.cluster.node_account
    oauth_scopes     = ["https://www.googleapis.com/auth/cloud-platform"] # IAM limits the account
    tags             = [var.node_tag]
    labels           = merge(each.value.labels, { "slipway.dev/pool" = each.key })
    metadata         = { disable-legacy-endpoints = "true" }

    workload_metadata_config {
      mode = "GKE_METADATA" # a pod sees its own identity, never the node's
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    gvnic {
      enabled = true
    }

    gcfs_config {
      enabled = each.value.image_streaming # a pod starts while its 6 GB image is still on the way
    }

    dynamic "reservation_affinity" {
      for_each = local.waits_for_capacity[each.key] ? [true] : []
      content {
        consume_reservation_type = "NO_RESERVATION"
      }
    }

    dynamic "guest_accelerator" {
      for_each = local.gpus[each.key] == null ? [] : [local.gpus[each.key]]
      content {
        type  = guest_accelerator.value.type
        count = guest_accelerator.value.count
        gpu_driver_installation_config {
          gpu_driver_version = each.value.gpu_driver
        }
      }
    }

    dynamic "ephemeral_storage_local_ssd_config" {
      for_each = each.value.local_ssds > 0 ? [each.value.local_ssds] : []
      content {
        local_ssd_count = ephemeral_storage_local_ssd_config.value
      }
    }

    dynamic "taint" {
      for_each = concat(local.gpu_taint[each.key], local.spot_taint[each.key], each.value.taints)
      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = taint.value.effect
      }
    }
  }

  lifecycle {
    ignore_changes = [initial_node_count] # the autoscaler's
  }
}

locals {
  waits_for_capacity = { for name, pool in var.pools : name => contains(["flex-start", "queued"], pool.provisioning) }

  # pipelines/placement.py tolerates it, and chooses by the label of the same name that GKE adds
  spot_taint = { for name, pool in var.pools : name =>
    pool.provisioning == "spot" ? [{ key = "cloud.google.com/gke-spot", value = "true", effect = "NO_SCHEDULE" }] : []
  }
}
