mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  name       = "slipway-dev"
  region     = "us-central1"
}

run "nodes_are_private_and_reach_the_internet_by_nat_alone" {
  command = plan

  assert {
    condition     = google_compute_subnetwork.nodes.private_ip_google_access && !google_compute_network.network.auto_create_subnetworks
    error_message = "nodes reach Google's APIs without a public address, and no other subnet exists"
  }
  assert {
    condition     = [for range in google_compute_subnetwork.nodes.secondary_ip_range : range.range_name] == ["pods", "services"]
    error_message = "pods and services have ranges of their own"
  }
  assert {
    condition     = google_compute_router_nat.nat.source_subnetwork_ip_ranges_to_nat == "LIST_OF_SUBNETWORKS"
    error_message = "NAT serves our subnet only"
  }
}

run "nothing_comes_in_but_what_is_said" {
  command = plan

  assert {
    condition     = google_compute_firewall.deny.priority == 65534 && one(google_compute_firewall.deny.deny[*].protocol) == "all"
    error_message = "everything else is denied, last"
  }
  assert {
    condition     = google_compute_firewall.webhooks.source_ranges == toset(["10.0.0.0/22"])
    error_message = "webhooks answer the control plane only"
  }
  assert {
    condition     = !contains(google_compute_firewall.load_balancers.source_ranges, "0.0.0.0/0")
    error_message = "model servers answer Google's load balancers, not the world"
  }
}

run "databases_get_the_private_range" {
  command = plan
  variables { ranges = { private_services = "10.9.0.0/20" } }

  assert {
    condition     = google_compute_global_address.private_services.address == "10.9.0.0" && google_compute_global_address.private_services.prefix_length == 20
    error_message = "ranges.private_services is what is reserved"
  }
}

run "internal_load_balancers_have_their_proxies" {
  command = plan
  variables { ranges = { proxies = "10.9.0.0/24" } }

  assert {
    condition     = google_compute_subnetwork.proxies.purpose == "REGIONAL_MANAGED_PROXY" && google_compute_subnetwork.proxies.role == "ACTIVE" && google_compute_subnetwork.proxies.ip_cidr_range == "10.9.0.0/24"
    error_message = "a subnet of their own, where ranges.proxies says"
  }
  assert {
    condition     = google_compute_firewall.load_balancers.source_ranges == toset(["130.211.0.0/22", "35.191.0.0/16", "10.9.0.0/24"])
    error_message = "the proxies reach model servers, as Google's own ranges do"
  }
  assert {
    condition     = output.network.proxies_range == "10.9.0.0/24" && output.network.nodes_range == "10.0.0.0/22"
    error_message = "network policies are told both ranges"
  }
}

run "refuses_too_few_addresses_for_proxies" {
  command = plan
  variables { ranges = { proxies = "10.9.0.0/27" } }
  expect_failures = [var.ranges]
}

run "outputs_name_what_was_made" {
  assert {
    condition     = output.network.id == google_compute_network.network.id && output.network.subnet == google_compute_subnetwork.nodes.id
    error_message = "ids are those of the resources"
  }
  assert {
    condition     = output.network.node_tag == "slipway-dev-node" && contains(google_compute_firewall.webhooks.target_tags, output.network.node_tag)
    error_message = "the nodes' tag is the one that the firewall knows"
  }
  assert {
    condition     = output.private_services_network == google_compute_network.network.id
    error_message = "databases lie in the same network"
  }
}

run "refuses_a_long_name" {
  command = plan
  variables { name = "Slipway" }
  expect_failures = [var.name]
}

run "refuses_a_range_that_is_none" {
  command = plan
  variables { ranges = { nodes = "10.0.0.7/22" } }
  expect_failures = [var.ranges]
}

run "refuses_too_few_addresses_for_pods" {
  command = plan
  variables { ranges = { pods = "10.16.0.0/24" } }
  expect_failures = [var.ranges]
}

run "refuses_ranges_that_overlap" {
  command = plan
  variables { ranges = { services = "10.16.0.0/20" } }
  expect_failures = [var.ranges]
}

run "refuses_a_port_that_is_none" {
  command = plan
  variables { webhook_ports = [0] }
  expect_failures = [var.webhook_ports]
}

run "refuses_a_share_above_one" {
  command = plan
  variables { flow_log_sampling = 10 }
  expect_failures = [var.flow_log_sampling]
}
