resource "google_sql_database_instance" "instance" {
  # checkov:skip=CKV_GCP_6: ssl_mode = ENCRYPTED_ONLY is what took the place of require_ssl
  # checkov:skip=CKV_GCP_79: the versions are those that Kubeflow Pipelines and MLflow are tested with

  for_each = var.instances

  project             = var.project_id
  name                = "${var.prefix}-${each.key}"
  region              = var.region
  database_version    = each.value.version
  deletion_protection = var.deletion_protection

  settings {
    edition                     = "ENTERPRISE"
    tier                        = each.value.tier
    availability_type           = each.value.highly_available ? "REGIONAL" : "ZONAL"
    disk_type                   = "PD_SSD"
    disk_size                   = each.value.disk_gib
    disk_autoresize             = true
    deletion_protection_enabled = var.deletion_protection # Google refuses too, whoever asks
    connector_enforcement       = "REQUIRED"              # the Auth Proxy or a connector: TLS and IAM, always

    ip_configuration {
      ipv4_enabled    = false
      private_network = var.network
      ssl_mode        = "ENCRYPTED_ONLY"
    }

    backup_configuration {
      enabled                        = true
      binary_log_enabled             = local.is_mysql[each.key] # MySQL's way to a point in time
      point_in_time_recovery_enabled = !local.is_mysql[each.key]
      transaction_log_retention_days = 7
      backup_retention_settings {
        retained_backups = each.value.backups
      }
    }

    dynamic "database_flags" {
      for_each = local.flags[each.key]
      content {
        name  = database_flags.key
        value = database_flags.value
      }
    }

    insights_config {
      query_insights_enabled = true
    }

    maintenance_window {
      day          = 7
      hour         = 3
      update_track = "stable"
    }
  }
}

resource "google_sql_database" "database" {
  for_each = var.instances

  project  = var.project_id
  instance = google_sql_database_instance.instance[each.key].name
  name     = each.value.database

  # Postgres refuses while somebody is connected; the instance takes it along
  deletion_policy = local.is_mysql[each.key] ? null : "ABANDON"
}

# Accounts sign in with IAM's tokens; there is no password to leak.
resource "google_sql_user" "user" {
  for_each = merge([for key, one in var.instances : { for name, email in one.users : "${key} ${name}" => { key = key, email = email } }]...)

  project         = var.project_id
  instance        = google_sql_database_instance.instance[each.value.key].name
  name            = local.is_mysql[each.value.key] ? each.value.email : trimsuffix(each.value.email, ".gserviceaccount.com")
  type            = "CLOUD_IAM_SERVICE_ACCOUNT"
  deletion_policy = local.is_mysql[each.value.key] ? null : "ABANDON" # Postgres refuses while the user owns tables
}

locals {
  is_mysql = { for key, one in var.instances : key => startswith(one.version, "MYSQL") }

  flags = { for key, one in var.instances : key => local.is_mysql[key] ? {
    cloudsql_iam_authentication = "on"
    } : {
    "cloudsql.iam_authentication" = "on"
    log_checkpoints               = "on"
    log_connections               = "on"
    log_disconnections            = "on"
    log_lock_waits                = "on"
    "cloudsql.enable_pgaudit"     = "on"
  } }
}
