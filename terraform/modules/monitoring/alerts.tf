# Who is told, and of what. The rules on the metrics of servers, pods and GPUs stand in manifests/monitoring/, where
# managed Prometheus evaluates them; what fires there it writes as ALERTS, and the first two policies pass that on. The
# third sees that this chain works at all. The others are on what Google itself counts: log lines and volumes.
locals {
  # name of a log-based metric in PromQL: dots, slashes and hyphens become underscores
  logged = "logging_googleapis_com:user_${replace(var.name, "-", "_")}_"
  here   = "monitored_resource=\"k8s_container\", cluster_name=\"${var.cluster}\""

  alerts = merge(
    {
      pages = {
        says     = "A rule says: act now"
        query    = "ALERTS{alertstate=\"firing\", severity=\"page\", cluster=\"${var.cluster}\"} == 1"
        duration = "0s"
        severity = "CRITICAL"
        runbook  = "$${metric_or_resource.label.alertname}"
      }
      tickets = {
        says     = "A rule says: look at it today"
        query    = "ALERTS{alertstate=\"firing\", severity=\"ticket\", cluster=\"${var.cluster}\"} == 1"
        duration = "0s"
        severity = "WARNING"
        runbook  = "$${metric_or_resource.label.alertname}"
      }
      rules-are-silent = {
        says     = "No rule is evaluated, so that nothing else can be told"
        query    = "absent(slipway:watchdog{cluster=\"${var.cluster}\"})"
        duration = "1800s"
        severity = "CRITICAL"
        runbook  = "rules-are-silent"
      }
      rollout-failed = {
        says     = "A rollout failed or went back"
        query    = "sum by (does) (increase(${local.logged}rollout_steps{${local.here}, does=~\"fail|withdraw\"}[15m])) > 0"
        duration = "0s"
        severity = "WARNING"
        runbook  = "rollout-failed"
      }
      faults-logged = {
        says     = "The servers log errors in a row"
        query    = "sum by (release) (increase(${local.logged}faults{${local.here}}[10m])) > 10"
        duration = "600s"
        severity = "WARNING"
        runbook  = "faults-logged"
      }
      certificate-ends = {
        says     = "The certificate of the public door ends and is not renewed"
        query    = "sum by (state) (increase(${local.logged}certificates[1d])) > 0"
        duration = "0s"
        severity = "CRITICAL"
        runbook  = "certificate-ends"
      }
      volume-fills = {
        says     = "A volume is nearly full"
        query    = "max by (namespace_name, persistentvolumeclaim_name) (kubernetes_io:pod_volume_utilization{monitored_resource=\"k8s_pod\", cluster_name=\"${var.cluster}\", namespace_name=~\"slipway-.*|kubeflow\", persistentvolumeclaim_name!=\"\"}) > ${var.thresholds.volume_percent / 100}"
        duration = "900s"
        severity = "WARNING"
        runbook  = "volume-fills"
      }
    },
    var.thresholds.verdict_days == null ? {} : {
      no-verdict = {
        says     = "Nothing was retrained and judged for ${coalesce(var.thresholds.verdict_days, 0)} days"
        query    = "(sum(increase(${local.logged}verdicts{${local.here}}[${coalesce(var.thresholds.verdict_days, 0)}d])) or vector(0)) < 0.5"
        duration = "3600s"
        severity = "WARNING"
        runbook  = "no-verdict"
      }
    },
  )
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
    content   = "What it means and what to do: docs/monitoring.md#${each.value.runbook}"
    mime_type = "text/markdown"
  }

  alert_strategy {
    auto_close = "86400s"
  }

  # their descriptors must exist before PromQL may name them
  depends_on = [google_logging_metric.counter]
}
