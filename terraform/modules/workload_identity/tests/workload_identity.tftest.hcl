mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id    = "test-project"
  prefix        = "slipway-dev"
  workload_pool = "test-project.svc.id.goog"
  accounts = {
    predictor = { namespace = "slipway-serving", name = "predictor", description = "Model servers" }
    mlflow    = { namespace = "slipway-system", name = "mlflow", description = "MLflow", project_roles = ["roles/cloudsql.client"] }
  }
}

run "one_google_account_for_each_kubernetes_account" {
  assert {
    condition     = { for key, one in google_service_account_iam_member.kubernetes : key => one.member } == { mlflow = "serviceAccount:test-project.svc.id.goog[slipway-system/mlflow]", predictor = "serviceAccount:test-project.svc.id.goog[slipway-serving/predictor]" }
    error_message = "only that Kubernetes account may act as it"
  }
  assert {
    condition     = google_service_account.account["predictor"].account_id == "slipway-dev-predictor"
    error_message = "named by prefix and key"
  }
  assert {
    condition     = output.accounts["predictor"].email == google_service_account.account["predictor"].email && output.accounts["predictor"].namespace == "slipway-serving" && output.accounts["mlflow"].member == google_service_account.account["mlflow"].member
    error_message = "outputs are those of the accounts"
  }
}

run "no_role_that_was_not_asked_for" {
  assert {
    condition     = keys(google_project_iam_member.role) == ["mlflow roles/cloudsql.client"]
    error_message = "roles as listed"
  }
}

run "refuses_another_kind_of_pool" {
  command = plan
  variables { workload_pool = "test-project" }
  expect_failures = [var.workload_pool]
}

run "refuses_a_name_too_long" {
  command = plan
  variables { accounts = { a-key-that-is-far-too-long = { namespace = "a", name = "b", description = "" } } }
  expect_failures = [var.accounts]
}

run "refuses_two_accounts_for_one" {
  command = plan
  variables { accounts = { one = { namespace = "a", name = "b", description = "" }, two = { namespace = "a", name = "b", description = "" } } }
  expect_failures = [var.accounts]
}

run "refuses_an_editor" {
  command = plan
  variables { accounts = { one = { namespace = "a", name = "b", description = "", project_roles = ["roles/editor"] } } }
  expect_failures = [var.accounts]
}

run "refuses_an_admin" {
  command = plan
  variables { accounts = { one = { namespace = "a", name = "b", description = "", project_roles = ["roles/storage.admin"] } } }
  expect_failures = [var.accounts]
}
