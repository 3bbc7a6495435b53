mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  name       = "slipway-dev"
  region     = "us-central1"
  cluster    = "slipway-dev"
  emails     = ["oncall@example.com"]
  budget     = { billing_account = "012345-6789AB-CDEF01", per_month = 500 }
}

run "each_alert_tells_somebody_what_to_do" {
  assert {
    condition     = keys(google_monitoring_alert_policy.alert) == ["failed-answers", "idle-gpu", "nothing-served", "slow-first-token"]
    error_message = "the alerts of alerts.tf"
  }
  assert {
    condition     = alltrue([for one in google_monitoring_alert_policy.alert : length(one.notification_channels) == 1 && length(one.documentation[0].content) > 20])
    error_message = "somebody is told, and what to do"
  }
}

run "thresholds_enter_the_queries" {
  command = plan
  variables { thresholds = { failed_percent = 5, first_token_seconds = 9 } }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.alert["failed-answers"].conditions[0].condition_prometheus_query_language[0].query, "> 0.05 *") && endswith(google_monitoring_alert_policy.alert["slow-first-token"].conditions[0].condition_prometheus_query_language[0].query, "> 9")
    error_message = "percent as a share, seconds as they are"
  }
}

run "logs_are_kept_with_release" {
  assert {
    condition     = google_logging_project_bucket_config.logs.retention_days == 30 && output.log_bucket == google_logging_project_bucket_config.logs.id
    error_message = "30 days"
  }
  assert {
    condition     = google_logging_metric.requests.label_extractors["release"] == "EXTRACT(jsonPayload.release)" && strcontains(google_logging_metric.faults.filter, "slipway-dev")
    error_message = "metrics know the release, and this cluster's lines alone"
  }
}

run "the_budget_is_told_before_it_is_spent" {
  assert {
    condition     = one(google_billing_budget.budget[0].amount[0].specified_amount[*].units) == "500" && contains([for rule in google_billing_budget.budget[0].threshold_rules : rule.spend_basis], "FORECASTED_SPEND")
    error_message = "500 a month, forecast too"
  }
}

run "no_budget_where_none_is_given" {
  command = plan
  variables { budget = null }
  assert {
    condition     = length(google_billing_budget.budget) == 0
    error_message = "null is none"
  }
}

run "refuses_a_name_for_an_email" {
  command = plan
  variables { emails = ["oncall"] }
  expect_failures = [var.emails]
}

run "refuses_to_keep_nothing" {
  command = plan
  variables { log_days = 0 }
  expect_failures = [var.log_days]
}

run "refuses_a_threshold_that_is_always_met" {
  command = plan
  variables { thresholds = { failed_percent = 0 } }
  expect_failures = [var.thresholds]
}

run "refuses_a_billing_account_that_is_none" {
  command = plan
  variables { budget = { billing_account = "mine", per_month = 5 } }
  expect_failures = [var.budget]
}

run "refuses_a_budget_of_nothing" {
  command = plan
  variables { budget = { billing_account = "012345-6789AB-CDEF01", per_month = 0 } }
  expect_failures = [var.budget]
}
