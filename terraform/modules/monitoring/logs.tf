# Lines of the pods of our namespaces, with request id and release (serving/logs.py), kept as long as `log_days` says.
# Kubeflow's own say why a run did not start. Without `log_days` they stay in the project's bucket _Default.
locals {
  pods = "resource.type=\"k8s_container\" AND resource.labels.cluster_name=\"${var.cluster}\""
  ours = "${local.pods} AND (resource.labels.namespace_name:\"slipway-\" OR resource.labels.namespace_name=\"kubeflow\")"
}

resource "google_logging_project_bucket_config" "logs" {
  count = var.log_days == null ? 0 : 1

  project          = var.project_id
  location         = var.region
  bucket_id        = var.name
  description      = "Slipway: server and steps"
  retention_days   = var.log_days
  enable_analytics = true
}

resource "google_logging_project_sink" "logs" {
  count = var.log_days == null ? 0 : 1

  project                = var.project_id
  name                   = var.name
  description            = "Lines of Slipway's namespaces, and of Kubeflow's"
  destination            = "logging.googleapis.com/${google_logging_project_bucket_config.logs[0].id}"
  filter                 = local.ours
  unique_writer_identity = true
}

# What has no /metrics, because it is over before anybody asks: each is counted from the JSON lines that it prints
# (components/progress.py; serving/logs.py). Label -> field of the line. The dashboards and alerts.tf read these.
locals {
  counters = {
    requests = {
      says   = "Requests by release and status, from the server's log lines"
      filter = "${local.ours} AND jsonPayload.logger=\"serving.access\" AND jsonPayload.message=\"request\""
      labels = { release = "jsonPayload.release", status = "jsonPayload.status" }
    }
    faults = {
      says   = "Lines of level error from the server"
      filter = "${local.ours} AND jsonPayload.level=\"error\""
      labels = { release = "jsonPayload.release" }
    }
    steps = {
      says   = "Steps of a pipeline that are done: their result was made anew (stored) or found (reused)"
      filter = "${local.ours} AND (jsonPayload.event=\"stored\" OR jsonPayload.event=\"reused\")"
      labels = { step = "jsonPayload.step", result = "jsonPayload.event" }
    }
    verdicts = {
      says   = "Verdicts of the gate: pass, fail, inconclusive"
      filter = "${local.ours} AND jsonPayload.event=\"verdict\" AND jsonPayload.step=\"quality_gate\""
      labels = { verdict = "jsonPayload.verdict" }
    }
    rollout-steps = {
      says   = "What rollouts do: apply, open, watch, promote, withdraw, fail, done and the others"
      filter = "${local.ours} AND jsonPayload.event=\"rollout\" AND jsonPayload.step=\"rollout\""
      labels = { service = "jsonPayload.service", does = "jsonPayload.does", release = "jsonPayload.release" }
    }
    live = {
      says   = "Rollouts that ended with the release live: rolled out, started again, already live"
      filter = "${local.ours} AND jsonPayload.event=\"live\" AND jsonPayload.step=\"rollout\""
      labels = { service = "jsonPayload.service", action = "jsonPayload.action", release = "jsonPayload.release" }
    }
    # Certificate Manager writes one a day, from five to ten days before the end
    certificates = {
      says   = "Certificates of the public door that end soon and were not renewed"
      filter = "logName=\"projects/${var.project_id}/logs/certificatemanager.googleapis.com%2Fcertificates_expiry\""
      labels = { state = "jsonPayload.state" }
    }
  }

  # Label "step" says whose numbers they are. A bucket's bound -> the next one: for means, which need none, a few do.
  distributions = {
    training-loss = {
      says   = "Loss of the training's steps, in nats per supervised token"
      filter = "${local.ours} AND jsonPayload.event=\"progress\" AND jsonPayload.step=\"finetune\" AND jsonPayload.loss>=0"
      value  = "jsonPayload.loss"
      bounds = [0, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 10]
    }
    step-rate = {
      says   = "How fast steps work, in their unit (tokens, prompts) a second"
      filter = "${local.ours} AND jsonPayload.event=\"progress\" AND jsonPayload.rate>0"
      value  = "jsonPayload.rate"
      bounds = [0, 1, 10, 100, 1000, 10000, 100000]
    }
    step-eta = {
      says   = "Seconds that a step still needs, by its own reckoning"
      filter = "${local.ours} AND jsonPayload.event=\"progress\" AND jsonPayload.eta_seconds>=0"
      value  = "jsonPayload.eta_seconds"
      bounds = [0, 60, 600, 3600, 21600, 86400, 604800]
    }
  }
}

resource "google_logging_metric" "counter" {
  for_each = local.counters

  project     = var.project_id
  name        = "${var.name}/${each.key}"
  description = each.value.says
  filter      = each.value.filter

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    dynamic "labels" {
      for_each = each.value.labels
      content {
        key        = labels.key
        value_type = "STRING"
      }
    }
  }

  label_extractors = { for label, field in each.value.labels : label => "EXTRACT(${field})" }
}

resource "google_logging_metric" "distribution" {
  for_each = local.distributions

  project     = var.project_id
  name        = "${var.name}/${each.key}"
  description = each.value.says
  filter      = each.value.filter

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "1"
    labels {
      key        = "step"
      value_type = "STRING"
    }
  }

  value_extractor  = "EXTRACT(${each.value.value})"
  label_extractors = { step = "EXTRACT(jsonPayload.step)" }

  bucket_options {
    explicit_buckets {
      bounds = each.value.bounds
    }
  }
}
