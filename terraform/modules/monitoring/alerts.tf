locals {
  # PromQL over managed Prometheus; the names of the metrics are those of serving/metrics.py and of DCGM
  alerts = {
    failed-answers = {
      says     = "More than ${var.thresholds.failed_percent} % of the answers fail"
      query    = "sum by (namespace) (rate(slipway_generations_total{outcome=\"failed\"}[5m])) > ${var.thresholds.failed_percent / 100} * sum by (namespace) (rate(slipway_generations_total[5m]))"
      duration = "300s"
      severity = "CRITICAL"
      do       = "Which release: `slipway rollout status`, and the log-based metric ${var.name}/requests by release. To go back: `slipway rollout back`."
    }
    slow-first-token = {
      says     = "The first token takes more than ${var.thresholds.first_token_seconds} s (95th percentile)"
      query    = "histogram_quantile(0.95, sum by (le) (rate(slipway_time_to_first_token_seconds_bucket[5m]))) > ${var.thresholds.first_token_seconds}"
      duration = "600s"
      severity = "WARNING"
      do       = "Look at slipway_queue_depth: requests that wait want more replicas; none that wait, a smaller model or a GPU."
    }
    nothing-served = {
      says     = "No model server answers to Prometheus"
      query    = "absent(slipway_release_info)"
      duration = "300s"
      severity = "CRITICAL"
      do       = "kubectl get pods -n slipway-serving; `slipway rollout status` says what should be live."
    }
    idle-gpu = {
      says     = "A GPU has done nothing for an hour, and costs all the same"
      query    = "max by (Hostname, gpu) (max_over_time(DCGM_FI_DEV_GPU_UTIL[1h])) < 1"
      duration = "0s"
      severity = "WARNING"
      do       = "kubectl get pods -A -o wide on that node; a pod that hangs is ended by its timeout (pipelines/placement.py)."
    }
  }
}

resource "google_monitoring_alert_policy" "alert" {
  for_each = local.alerts

  project               = var.project_id
  display_name          = "${var.name}: ${each.value.says}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = local.channels

  conditions {
    display_name = each.value.says
    condition_prometheus_query_language {
      query                     = each.value.query
      duration                  = each.value.duration
      evaluation_interval       = "60s"
      disable_metric_validation = true # before the first rollout the metrics do not exist
    }
  }

  documentation {
    content   = each.value.do
    mime_type = "text/markdown"
  }

  alert_strategy {
    auto_close = "86400s"
  }
}
