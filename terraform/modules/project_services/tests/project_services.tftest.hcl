mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  services   = ["run.googleapis.com", "storage.googleapis.com"]
}

run "each_api_is_on_and_stays_on" {
  assert {
    condition     = keys(google_project_service.service) == ["run.googleapis.com", "storage.googleapis.com"]
    error_message = "one resource for each API"
  }
  assert {
    condition     = alltrue([for one in google_project_service.service : !one.disable_on_destroy])
    error_message = "destroying must not switch off what others use"
  }
  assert {
    condition     = output.project_id == "test-project"
    error_message = "the project is handed on"
  }
}

run "refuses_a_project_number" {
  command = plan
  variables { project_id = "123456789012" }
  expect_failures = [var.project_id]
}

run "refuses_a_short_name" {
  command = plan
  variables { services = ["run"] }
  expect_failures = [var.services]
}
