mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  name       = "slipway-dev"
  region     = "us-central1"
  zones      = ["us-central1-a", "us-central1-b"]
  network = {
    id             = "projects/test-project/global/networks/n"
    subnet         = "projects/test-project/regions/us-central1/subnetworks/s"
    pods_range     = "pods"
    services_range = "services"
  }
}

run "nodes_are_private_and_the_api_has_no_public_address" {
  assert {
    condition     = google_container_cluster.cluster.private_cluster_config[0].enable_private_nodes && google_container_cluster.cluster.private_cluster_config[0].enable_private_endpoint
    error_message = "neither nodes nor API server have public addresses"
  }
  assert {
    condition     = google_container_cluster.cluster.control_plane_endpoints_config[0].dns_endpoint_config[0].allow_external_traffic
    error_message = "the DNS endpoint is how it is reached"
  }
  assert {
    condition     = google_container_cluster.cluster.datapath_provider == "ADVANCED_DATAPATH"
    error_message = "network policies bind"
  }
  assert {
    condition     = google_container_cluster.cluster.location == "us-central1" && google_container_cluster.cluster.release_channel[0].channel == "REGULAR"
    error_message = "regional, REGULAR channel"
  }
}

run "it_offers_what_the_platform_uses" {
  assert {
    condition     = google_container_cluster.cluster.gateway_api_config[0].channel == "CHANNEL_STANDARD"
    error_message = "Gateway API"
  }
  assert {
    condition     = google_container_cluster.cluster.addons_config[0].gcs_fuse_csi_driver_config[0].enabled && google_container_cluster.cluster.secret_manager_config[0].enabled
    error_message = "GCS FUSE and Secret Manager"
  }
  assert {
    condition     = google_container_cluster.cluster.monitoring_config[0].managed_prometheus[0].enabled && contains(google_container_cluster.cluster.monitoring_config[0].enable_components, "DCGM")
    error_message = "managed Prometheus with the GPUs' metrics"
  }
  assert {
    condition     = google_container_cluster.cluster.workload_identity_config[0].workload_pool == output.cluster.workload_pool
    error_message = "workload identity"
  }
}

run "it_is_protected_unless_told" {
  command = plan
  assert {
    condition     = google_container_cluster.cluster.deletion_protection && google_container_cluster.cluster.enable_shielded_nodes
    error_message = "deletion protection and shielded nodes are the default"
  }
}

run "ephemeral_clusters_may_go" {
  command = plan
  variables { deletion_protection = false }
  assert {
    condition     = !google_container_cluster.cluster.deletion_protection
    error_message = "the variable decides"
  }
}

run "nodes_have_an_account_of_their_own" {
  assert {
    condition     = google_project_iam_member.node.role == "roles/container.defaultNodeServiceAccount" && output.node_member == google_service_account.node.member
    error_message = "logs and metrics only"
  }
  assert {
    condition     = output.cluster.node_account == google_service_account.node.email && output.cluster.id == google_container_cluster.cluster.id
    error_message = "pools get the cluster and its account"
  }
}

run "audit_blocks_nothing" {
  command = plan
  assert {
    condition     = google_binary_authorization_policy.policy[0].default_admission_rule[0].enforcement_mode == "DRYRUN_AUDIT_LOG_ONLY"
    error_message = "audit only writes"
  }
}

run "enforce_admits_our_registry_alone" {
  command = plan
  variables { images = { mode = "enforce", allowed = ["us-docker.pkg.dev/p/slipway/**"] } }
  assert {
    condition     = google_binary_authorization_policy.policy[0].default_admission_rule[0].evaluation_mode == "ALWAYS_DENY" && google_binary_authorization_policy.policy[0].default_admission_rule[0].enforcement_mode == "ENFORCED_BLOCK_AND_AUDIT_LOG"
    error_message = "everything else is blocked"
  }
  assert {
    condition     = google_container_cluster.cluster.binary_authorization[0].evaluation_mode == "PROJECT_SINGLETON_POLICY_ENFORCE"
    error_message = "the cluster asks the policy"
  }
}

run "attestors_admit_what_they_signed" {
  command = plan
  variables { images = { mode = "enforce", attestors = ["projects/p/attestors/release"] } }
  assert {
    condition     = google_binary_authorization_policy.policy[0].default_admission_rule[0].evaluation_mode == "REQUIRE_ATTESTATION"
    error_message = "a signature is asked for"
  }
}

run "refuses_a_name_too_long_for_an_account" {
  command = plan
  variables { name = "slipway-in-a-very-long-name" }
  expect_failures = [var.name]
}

run "refuses_zones_of_another_region" {
  command = plan
  variables { zones = ["europe-west4-a"] }
  expect_failures = [var.zones]
}

run "refuses_public_for_nobody" {
  command = plan
  variables { control_plane = { public = true } }
  expect_failures = [var.control_plane]
}

run "refuses_the_whole_internet" {
  command = plan
  variables { control_plane = { public = true, authorized_networks = { all = "0.0.0.0/0" } } }
  expect_failures = [var.control_plane]
}

run "refuses_an_unknown_channel" {
  command = plan
  variables { release_channel = "regular" }
  expect_failures = [var.release_channel]
}

run "refuses_an_hour_of_maintenance" {
  command = plan
  variables { maintenance = { end = "2026-01-03T04:00:00Z" } }
  expect_failures = [var.maintenance]
}

run "refuses_an_unknown_mode_for_images" {
  command = plan
  variables { images = { mode = "block" } }
  expect_failures = [var.images]
}

run "refuses_to_refuse_every_image" {
  command = plan
  variables { images = { mode = "enforce" } }
  expect_failures = [var.images]
}

run "refuses_a_pattern_for_every_registry" {
  command = plan
  variables { images = { allowed = ["*"] } }
  expect_failures = [var.images]
}
