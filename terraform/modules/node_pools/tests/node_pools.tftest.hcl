mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  cluster    = { id = "projects/p/locations/l/clusters/c", node_account = "node@p.iam.gserviceaccount.com", zones = ["us-central1-a", "us-central1-b"] }
  node_tag   = "slipway-node"
  pools = {
    cpu  = { machine_type = "e2-standard-4", min_nodes = 1, max_nodes = 5 }
    l4   = { machine_type = "g2-standard-12", max_nodes = 4, provisioning = "spot", local_ssds = 1 }
    a100 = { machine_type = "a2-highgpu-1g", max_nodes = 2, labels = { team = "ml" }, taints = [{ key = "team", value = "ml", effect = "NO_EXECUTE" }] }
    h100 = { machine_type = "a3-highgpu-8g", max_nodes = 2, provisioning = "flex-start", max_run_seconds = 604800, local_ssds = 16 }
    big  = { machine_type = "a3-highgpu-8g", max_nodes = 4, provisioning = "queued", max_run_seconds = 86400, local_ssds = 16, gpu_driver = "DEFAULT", zones = ["us-central1-a"], image_streaming = false, disk = { type = "hyperdisk-balanced", size_gib = 200 } }
  }
}

run "the_map_makes_what_it_says" {
  assert {
    condition     = keys(google_container_node_pool.pool) == ["a100", "big", "cpu", "h100", "l4"]
    error_message = "one pool for each entry"
  }
  assert {
    condition     = { for name, pool in google_container_node_pool.pool : name => pool.node_config[0].machine_type } == { for name, pool in var.pools : name => pool.machine_type }
    error_message = "machine types"
  }
  assert {
    condition     = { for name, pool in google_container_node_pool.pool : name => [pool.autoscaling[0].total_min_node_count, pool.autoscaling[0].total_max_node_count] } == { for name, pool in var.pools : name => [pool.min_nodes, pool.max_nodes] }
    error_message = "autoscaling from min_nodes to max_nodes"
  }
  assert {
    condition     = alltrue([for pool in google_container_node_pool.pool : pool.autoscaling[0].location_policy == "ANY"])
    error_message = "nodes come where there is room"
  }
}

run "a_pool_begins_with_the_nodes_that_it_never_goes_below" {
  command = plan
  variables {
    pools = {
      none  = { machine_type = "e2-standard-4", max_nodes = 5 }
      three = { machine_type = "e2-standard-4", min_nodes = 3, max_nodes = 5 }
      alone = { machine_type = "e2-standard-4", min_nodes = 3, max_nodes = 5, zones = ["us-central1-a"] }
    }
  }
  assert {
    condition     = { for name, pool in google_container_node_pool.pool : name => pool.initial_node_count } == { alone = 3, none = 0, three = 2 }
    error_message = "in each zone so many that together there are min_nodes"
  }
}

run "gpus_follow_from_the_machine" {
  assert {
    condition = { for name, pool in google_container_node_pool.pool : name => [for gpu in pool.node_config[0].guest_accelerator : "${gpu.count} ${gpu.type} ${gpu.gpu_driver_installation_config[0].gpu_driver_version}"] } == {
      a100 = ["1 nvidia-tesla-a100 LATEST"], big = ["8 nvidia-h100-80gb DEFAULT"], cpu = [], h100 = ["8 nvidia-h100-80gb LATEST"], l4 = ["1 nvidia-l4 LATEST"]
    }
    error_message = "type, count and driver"
  }
  assert {
    condition     = output.gpus_at_most == { nvidia-tesla-a100 = 2, nvidia-l4 = 4, nvidia-h100-80gb = 48 }
    error_message = "the quota that is needed: 8 GPUs in each of 2 + 4 machines are 48"
  }
}

run "nobody_lands_on_a_gpu_or_a_spot_node_by_chance" {
  assert {
    condition = { for name, pool in google_container_node_pool.pool : name => [for taint in pool.node_config[0].taint : "${taint.key}=${taint.value}:${taint.effect}"] } == {
      a100 = ["nvidia.com/gpu=present:NO_SCHEDULE", "team=ml:NO_EXECUTE"]
      big  = ["nvidia.com/gpu=present:NO_SCHEDULE"]
      cpu  = []
      h100 = ["nvidia.com/gpu=present:NO_SCHEDULE"]
      l4   = ["nvidia.com/gpu=present:NO_SCHEDULE", "cloud.google.com/gke-spot=true:NO_SCHEDULE"]
    }
    error_message = "taints as pipelines/placement.py tolerates them"
  }
}

run "each_pool_is_provisioned_one_way" {
  assert {
    condition = { for name, pool in google_container_node_pool.pool : name => [pool.node_config[0].spot, pool.node_config[0].flex_start, length(pool.queued_provisioning) == 1] } == {
      a100 = [false, false, false], big = [false, false, true], cpu = [false, false, false], h100 = [false, true, false], l4 = [true, false, false]
    }
    error_message = "spot, flex-start and queued never together"
  }
  assert {
    condition     = google_container_node_pool.pool["h100"].node_config[0].max_run_duration == "604800s" && one(google_container_node_pool.pool["h100"].node_config[0].reservation_affinity[*].consume_reservation_type) == "NO_RESERVATION"
    error_message = "flex-start ends after max_run_seconds, and takes no reservation"
  }
  assert {
    condition     = { for name, pool in google_container_node_pool.pool : name => pool.management[0].auto_repair } == { a100 = true, big = false, cpu = true, h100 = false, l4 = true }
    error_message = "no repair where Google takes none"
  }
}

run "nodes_are_shielded_private_and_nobody" {
  assert {
    condition     = alltrue([for pool in google_container_node_pool.pool : pool.network_config[0].enable_private_nodes && pool.node_config[0].shielded_instance_config[0].enable_secure_boot && pool.node_config[0].workload_metadata_config[0].mode == "GKE_METADATA"])
    error_message = "private, shielded, GKE_METADATA"
  }
  assert {
    condition     = alltrue([for pool in google_container_node_pool.pool : pool.node_config[0].service_account == "node@p.iam.gserviceaccount.com" && pool.node_config[0].tags == tolist(["slipway-node"])])
    error_message = "the nodes' own account and tag"
  }
  assert {
    condition     = alltrue([for pool in google_container_node_pool.pool : pool.upgrade_settings[0].max_unavailable == 0 && pool.node_config[0].gvnic[0].enabled])
    error_message = "never fewer nodes during an upgrade; gVNIC"
  }
}

run "storage_and_images_as_said" {
  assert {
    condition     = { for name, pool in google_container_node_pool.pool : name => try(pool.node_config[0].ephemeral_storage_local_ssd_config[0].local_ssd_count, 0) } == { a100 = 0, big = 16, cpu = 0, h100 = 16, l4 = 1 }
    error_message = "local SSDs"
  }
  assert {
    condition     = google_container_node_pool.pool["cpu"].node_config[0].gcfs_config[0].enabled && !google_container_node_pool.pool["big"].node_config[0].gcfs_config[0].enabled
    error_message = "image streaming unless switched off"
  }
  assert {
    condition     = google_container_node_pool.pool["big"].node_config[0].disk_type == "hyperdisk-balanced" && google_container_node_pool.pool["big"].node_config[0].disk_size_gb == 200 && google_container_node_pool.pool["big"].node_locations == toset(["us-central1-a"])
    error_message = "disk and zones"
  }
  assert {
    condition     = google_container_node_pool.pool["a100"].node_config[0].labels == tomap({ team = "ml", "slipway.dev/pool" = "a100" })
    error_message = "labels, and the pool's own"
  }
}

run "refuses_a_name_that_is_none" {
  command = plan
  variables { pools = { L4 = { machine_type = "e2-standard-4", max_nodes = 1 } } }
  expect_failures = [var.pools]
}

run "refuses_two_ways_of_provisioning" {
  command = plan
  variables { pools = { l4 = { machine_type = "g2-standard-8", max_nodes = 1, provisioning = "spot, flex-start" } } }
  expect_failures = [var.pools]
}

run "refuses_an_end_for_nodes_that_stay" {
  command = plan
  variables { pools = { l4 = { machine_type = "g2-standard-8", max_nodes = 1, provisioning = "spot", max_run_seconds = 3600 } } }
  expect_failures = [var.pools]
}

run "refuses_more_than_seven_days" {
  command = plan
  variables { pools = { h100 = { machine_type = "a3-highgpu-8g", max_nodes = 1, provisioning = "flex-start", max_run_seconds = 604801, local_ssds = 16 } } }
  expect_failures = [var.pools]
}

run "refuses_a_minimum_above_the_maximum" {
  command = plan
  variables { pools = { cpu = { machine_type = "e2-standard-4", min_nodes = 3, max_nodes = 2 } } }
  expect_failures = [var.pools]
}

run "refuses_standing_nodes_that_wait_for_capacity" {
  command = plan
  variables { pools = { h100 = { machine_type = "a3-highgpu-8g", min_nodes = 1, max_nodes = 2, provisioning = "queued", local_ssds = 16 } } }
  expect_failures = [var.pools]
}

run "refuses_a_gpu_machine_that_is_not_known" {
  command = plan
  variables { pools = { l4 = { machine_type = "g2-standard-9", max_nodes = 1 } } }
  expect_failures = [var.pools]
}

run "refuses_one_h100_on_demand" {
  command = plan
  variables { pools = { h100 = { machine_type = "a3-highgpu-1g", max_nodes = 1, local_ssds = 2 } } }
  expect_failures = [var.pools]
}

run "refuses_an_unknown_driver" {
  command = plan
  variables { pools = { l4 = { machine_type = "g2-standard-8", max_nodes = 1, gpu_driver = "535" } } }
  expect_failures = [var.pools]
}

run "refuses_local_ssds_that_the_machine_cannot_take" {
  command = plan
  variables { pools = { h100 = { machine_type = "a3-highgpu-8g", max_nodes = 1, local_ssds = 4 } } }
  expect_failures = [var.pools]
}

run "refuses_kubernetes_names_of_effects" {
  command = plan
  variables { pools = { cpu = { machine_type = "e2-standard-4", max_nodes = 1, taints = [{ key = "a", value = "b", effect = "NoSchedule" }] } } }
  expect_failures = [var.pools]
}
