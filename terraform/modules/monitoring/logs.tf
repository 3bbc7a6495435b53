# Lines of the pods of our namespaces, with request id and release (serving/logs.py), kept as long as `log_days` says.
locals {
  ours = "resource.type=\"k8s_container\" AND resource.labels.cluster_name=\"${var.cluster}\" AND resource.labels.namespace_name:\"slipway-\""
}

resource "google_logging_project_bucket_config" "logs" {
  project          = var.project_id
  location         = var.region
  bucket_id        = var.name
  description      = "Slipway: server and steps"
  retention_days   = var.log_days
  enable_analytics = true
}

resource "google_logging_project_sink" "logs" {
  project                = var.project_id
  name                   = var.name
  description            = "Lines of Slipway's namespaces"
  destination            = "logging.googleapis.com/${google_logging_project_bucket_config.logs.id}"
  filter                 = local.ours
  unique_writer_identity = true
}

resource "google_logging_metric" "requests" {
  project     = var.project_id
  name        = "${var.name}/requests"
  description = "Requests by release and status, from the server's log lines"
  filter      = "${local.ours} AND jsonPayload.logger=\"serving.access\" AND jsonPayload.message=\"request\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    labels {
      key        = "release"
      value_type = "STRING"
    }
    labels {
      key        = "status"
      value_type = "STRING"
    }
  }

  label_extractors = {
    release = "EXTRACT(jsonPayload.release)"
    status  = "EXTRACT(jsonPayload.status)"
  }
}

resource "google_logging_metric" "faults" {
  project     = var.project_id
  name        = "${var.name}/faults"
  description = "Lines of level error from server and steps"
  filter      = "${local.ours} AND jsonPayload.level=\"error\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    labels {
      key        = "release"
      value_type = "STRING"
    }
  }

  label_extractors = { release = "EXTRACT(jsonPayload.release)" }
}
