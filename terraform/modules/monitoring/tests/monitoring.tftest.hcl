mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  name       = "slipway-dev"
  region     = "us-central1"
  cluster    = "slipway-dev"
  emails     = ["oncall@example.com"]
  log_days   = 30
  budget     = { billing_account = "012345-6789AB-CDEF01", per_month = 500 }
}

run "each_alert_tells_somebody_what_to_do" {
  assert {
    condition     = keys(google_monitoring_alert_policy.alert) == ["certificate-ends", "faults-logged", "pages", "rollout-failed", "rules-are-silent", "tickets", "volume-fills"]
    error_message = "the alerts of alerts.tf"
  }
  assert {
    condition     = alltrue([for one in google_monitoring_alert_policy.alert : length(one.notification_channels) == 1 && strcontains(one.documentation[0].content, "docs/monitoring.md#")])
    error_message = "somebody is told, and where it is written what to do"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.alert["pages"].documentation[0].content, "#$${metric_or_resource.label.alertname}")
    error_message = "the section is that of the rule that fires, which only Cloud Monitoring knows"
  }
}

run "alerts_look_at_this_cluster_alone" {
  assert {
    condition     = alltrue([for name, one in google_monitoring_alert_policy.alert : strcontains(one.conditions[0].condition_prometheus_query_language[0].query, "=\"slipway-dev\"") || name == "certificate-ends"])
    error_message = "another environment may live in the same project"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.alert["certificate-ends"].conditions[0].condition_prometheus_query_language[0].query, "logging_googleapis_com:user_slipway_dev_certificates")
    error_message = "PromQL's name of slipway-dev/certificates"
  }
}

run "thresholds_enter_the_queries" {
  command = plan
  variables { thresholds = { volume_percent = 70, verdict_days = 8 } }
  assert {
    condition     = endswith(google_monitoring_alert_policy.alert["volume-fills"].conditions[0].condition_prometheus_query_language[0].query, "> 0.7") && strcontains(google_monitoring_alert_policy.alert["no-verdict"].conditions[0].condition_prometheus_query_language[0].query, "[8d]")
    error_message = "percent as a share, days as a window"
  }
}

run "logs_are_kept_with_release" {
  assert {
    condition     = google_logging_project_bucket_config.logs[0].retention_days == 30 && output.log_bucket == google_logging_project_bucket_config.logs[0].id
    error_message = "30 days"
  }
  assert {
    condition     = google_logging_metric.counter["requests"].label_extractors["release"] == "EXTRACT(jsonPayload.release)" && strcontains(google_logging_metric.counter["faults"].filter, "slipway-dev")
    error_message = "metrics know the release, and this cluster's lines alone"
  }
  assert {
    condition     = strcontains(google_logging_project_sink.logs[0].filter, "namespace_name=\"kubeflow\"")
    error_message = "Kubeflow's lines say why a run did not start"
  }
}

run "what_is_made_again_within_a_week_has_no_bucket" {
  command = plan
  variables { log_days = null }
  assert {
    condition     = length(google_logging_project_bucket_config.logs) + length(google_logging_project_sink.logs) == 0 && output.log_bucket == "projects/test-project/locations/global/buckets/_Default"
    error_message = "a deleted bucket keeps its name for seven days"
  }
}

run "every_label_of_a_metric_is_extracted" {
  assert {
    condition     = alltrue([for one in google_logging_metric.counter : toset([for label in one.metric_descriptor[0].labels : label.key]) == toset(keys(one.label_extractors))])
    error_message = "a label without an extractor stays empty"
  }
  assert {
    condition     = alltrue([for one in google_logging_metric.distribution : one.metric_descriptor[0].value_type == "DISTRIBUTION" && startswith(one.value_extractor, "EXTRACT(jsonPayload.") && length(one.bucket_options[0].explicit_buckets[0].bounds) > 5])
    error_message = "a number of the line, and buckets for it"
  }
}

run "the_budget_is_told_before_it_is_spent" {
  assert {
    condition     = one(google_billing_budget.budget[0].amount[0].specified_amount[*].units) == "500" && contains([for rule in google_billing_budget.budget[0].threshold_rules : rule.spend_basis], "FORECASTED_SPEND")
    error_message = "500 a month, forecast too"
  }
  assert {
    condition     = google_billing_budget.budget[0].budget_filter[0].projects == toset(["projects/${data.google_project.project[0].number}"])
    error_message = "by number, as the API answers"
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
  variables { thresholds = { volume_percent = 0 } }
  expect_failures = [var.thresholds]
}

run "refuses_half_a_day" {
  command = plan
  variables { thresholds = { verdict_days = 0.5 } }
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
