mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  prefix     = "slipway-dev"
  region     = "us-central1"
  network    = "projects/test-project/global/networks/n"
  instances = {
    pipelines = { version = "MYSQL_8_0", database = "mlpipeline", users = { kfp = "kfp@test-project.iam.gserviceaccount.com" } }
    mlflow    = { version = "POSTGRES_17", database = "mlflow", highly_available = true, disk_gib = 20, users = { mlflow = "mlflow@test-project.iam.gserviceaccount.com" } }
  }
}

run "private_encrypted_and_protected" {
  assert {
    condition     = alltrue([for one in google_sql_database_instance.instance : !one.settings[0].ip_configuration[0].ipv4_enabled && one.settings[0].ip_configuration[0].ssl_mode == "ENCRYPTED_ONLY"])
    error_message = "no public address, TLS only"
  }
  assert {
    condition     = alltrue([for one in google_sql_database_instance.instance : one.deletion_protection && one.settings[0].deletion_protection_enabled])
    error_message = "protected twice"
  }
  assert {
    condition     = { for key, one in google_sql_database_instance.instance : key => one.settings[0].availability_type } == { mlflow = "REGIONAL", pipelines = "ZONAL" }
    error_message = "a second zone where asked for"
  }
}

run "any_point_in_time_can_be_restored" {
  assert {
    condition     = google_sql_database_instance.instance["pipelines"].settings[0].backup_configuration[0].binary_log_enabled && google_sql_database_instance.instance["mlflow"].settings[0].backup_configuration[0].point_in_time_recovery_enabled
    error_message = "MySQL by its binary log, Postgres by its write-ahead log"
  }
}

run "accounts_sign_in_with_iam" {
  assert {
    condition     = { for key, one in google_sql_user.user : key => "${one.type} ${one.name}" } == { "mlflow mlflow" = "CLOUD_IAM_SERVICE_ACCOUNT mlflow@test-project.iam", "pipelines kfp" = "CLOUD_IAM_SERVICE_ACCOUNT kfp@test-project.iam.gserviceaccount.com" }
    error_message = "each engine's form of the name"
  }
  assert {
    condition     = contains([for flag in google_sql_database_instance.instance["mlflow"].settings[0].database_flags : flag.name], "cloudsql.iam_authentication") && contains([for flag in google_sql_database_instance.instance["pipelines"].settings[0].database_flags : flag.name], "cloudsql_iam_authentication")
    error_message = "IAM authentication is on"
  }
}

run "postgres_goes_with_its_instance" {
  assert {
    condition     = google_sql_database.database["mlflow"].deletion_policy == "ABANDON" && google_sql_user.user["mlflow mlflow"].deletion_policy == "ABANDON" && google_sql_database.database["pipelines"].deletion_policy != "ABANDON"
    error_message = "it drops no database in use, and no user who owns tables"
  }
}

run "outputs_say_where" {
  assert {
    condition     = output.instances["mlflow"].connection == google_sql_database_instance.instance["mlflow"].connection_name && output.instances["pipelines"].database == "mlpipeline"
    error_message = "connection and database"
  }
}

run "ephemeral_databases_may_go" {
  command = plan
  variables { deletion_protection = false }
  assert {
    condition     = alltrue([for one in google_sql_database_instance.instance : !one.deletion_protection && !one.settings[0].deletion_protection_enabled])
    error_message = "the variable decides"
  }
}

run "refuses_an_old_version" {
  command = plan
  variables { instances = { mlflow = { version = "POSTGRES_11", database = "mlflow" } } }
  expect_failures = [var.instances]
}

run "refuses_availability_on_a_shared_core" {
  command = plan
  variables { instances = { mlflow = { version = "POSTGRES_17", database = "mlflow", tier = "db-f1-micro", highly_available = true } } }
  expect_failures = [var.instances]
}

run "refuses_no_backups" {
  command = plan
  variables { instances = { mlflow = { version = "POSTGRES_17", database = "mlflow", backups = 0 } } }
  expect_failures = [var.instances]
}

run "refuses_a_member_as_user" {
  command = plan
  variables { instances = { mlflow = { version = "POSTGRES_17", database = "mlflow", users = { a = "serviceAccount:a@p.iam.gserviceaccount.com" } } } }
  expect_failures = [var.instances]
}
