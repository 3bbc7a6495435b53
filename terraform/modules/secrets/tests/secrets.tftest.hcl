mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  region     = "us-central1"
  secrets = {
    slipway-hugging-face = { description = "Token of the Hugging Face Hub" }
    slipway-signing      = { description = "Key that signs releases" }
  }
}

run "each_secret_has_its_place_and_no_value" {
  assert {
    condition     = output.names == ["slipway-hugging-face", "slipway-signing"]
    error_message = "names as given"
  }
  assert {
    condition     = alltrue([for one in google_secret_manager_secret.secret : one.replication[0].user_managed[0].replicas[0].location == "us-central1" && one.deletion_protection])
    error_message = "in the region, protected"
  }
}

run "ephemeral_secrets_may_go" {
  command = plan
  variables { deletion_protection = false }
  assert {
    condition     = alltrue([for one in google_secret_manager_secret.secret : !one.deletion_protection])
    error_message = "the variable decides"
  }
}

run "refuses_a_name_that_is_none" {
  command = plan
  variables { secrets = { "HF_TOKEN" = { description = "" } } }
  expect_failures = [var.secrets]
}
