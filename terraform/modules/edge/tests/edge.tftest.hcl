mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  name       = "slipway-prod"
  hostname   = "chat.example.com"
  users      = { team = "group:team@example.com" }
}

run "one_name_one_certificate_one_address" {
  assert {
    condition     = google_certificate_manager_certificate.certificate.managed[0].domains == tolist(["chat.example.com"]) && google_certificate_manager_certificate_map_entry.entry.hostname == "chat.example.com"
    error_message = "the certificate is for the host name"
  }
  assert {
    condition     = google_compute_ssl_policy.modern.min_tls_version == "TLS_1_2"
    error_message = "no older TLS"
  }
  assert {
    condition     = output.edge.address == "slipway-prod" && output.edge.ip == google_compute_global_address.address.address && output.edge.certificate_map == "slipway-prod" && output.edge.security_policy == "slipway-prod" && output.edge.ssl_policy == "slipway-prod"
    error_message = "what the manifests name"
  }
  assert {
    condition     = output.certificate_record == google_certificate_manager_dns_authorization.domain.dns_resource_record
    error_message = "the record to write"
  }
}

run "one_address_cannot_take_all" {
  command = plan
  variables { rate_limit = { requests = 100, seconds = 30 } }
  assert {
    condition = one([for rule in google_compute_security_policy.policy.rule : [
      rule.rate_limit_options[0].rate_limit_threshold[0].count, rule.rate_limit_options[0].rate_limit_threshold[0].interval_sec,
      rule.rate_limit_options[0].ban_threshold[0].count, rule.rate_limit_options[0].exceed_action
    ] if rule.priority == 1000]) == [100, 30, 1000, "deny(429)"]
    error_message = "limit, ban and answer"
  }
}

run "users_pass_the_proxy" {
  command = plan
  assert {
    condition     = google_iap_web_iam_member.user["team"].role == "roles/iap.httpsResourceAccessor" && google_iap_web_iam_member.user["team"].member == "group:team@example.com"
    error_message = "the users that are named"
  }
}

run "refuses_an_address_for_a_name" {
  command = plan
  variables { hostname = "https://chat.example.com/" }
  expect_failures = [var.hostname]
}

run "refuses_an_open_door" {
  command = plan
  variables { users = { all = "allUsers" } }
  expect_failures = [var.users]
}

run "refuses_no_requests" {
  command = plan
  variables { rate_limit = { requests = 0 } }
  expect_failures = [var.rate_limit]
}

run "refuses_a_span_that_cloud_armor_has_not" {
  command = plan
  variables { rate_limit = { seconds = 45 } }
  expect_failures = [var.rate_limit]
}
