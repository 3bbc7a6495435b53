mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id   = "test-project"
  environment  = "dev"
  repository   = { id = "123", owner_id = "456" }
  state_bucket = "state"
}

run "what_the_workflows_read" {
  assert {
    condition     = keys(output.settings.service_accounts) == ["apply", "plan", "preview", "release", "submit"] && output.settings.workload_identity_provider != ""
    error_message = "an account for each job"
  }
  assert {
    condition     = [for name in ["project_id", "region", "cluster", "state_bucket", "preview_registry"] : output.settings[name]] == ["test-project", "us-central1", "slipway-dev", "state", "us-central1-docker.pkg.dev/test-project/slipway-dev-previews"]
    error_message = "what ci/job.py asks for"
  }
  assert {
    condition     = output.settings.demo_service_account == google_service_account.demo.email && google_service_account_iam_member.demo.role == "roles/iam.serviceAccountUser"
    error_message = "the preview deploys as the demo's account, and as no other"
  }
}

run "submit_reaches_the_cluster_and_nothing_in_it" {
  assert {
    condition     = google_project_iam_custom_role.reach_cluster.permissions == toset(["container.clusters.connect", "container.clusters.get"]) && google_project_iam_member.submit.role == google_project_iam_custom_role.reach_cluster.name
    error_message = "Kubernetes' own rights say what it may do there"
  }
}

run "who_works_with_the_state" {
  assert {
    condition     = [for key, one in google_storage_bucket_iam_member.state : key if one.role == "roles/storage.objectUser" && length(one.condition) == 0] == ["apply works"]
    error_message = "apply alone writes every state"
  }
  assert {
    condition     = google_storage_bucket_iam_member.state["plan locks"].condition[0].expression == "resource.name.startsWith('projects/_/buckets/state/objects/slipway/gke/') && resource.name.endsWith('.tflock') || resource.name.startsWith('projects/_/buckets/state/objects/slipway/plans/')"
    error_message = "a pull request's plan takes the lock and keeps plans; it writes no state"
  }
  assert {
    condition     = google_storage_bucket_iam_member.state["preview works"].condition[0].expression == "resource.name.startsWith('projects/_/buckets/state/objects/slipway/cloudrun/')" && google_storage_bucket_iam_member.state["preview lists"].role == "roles/storage.legacyBucketReader"
    error_message = "a preview works with previews' states, and reads no other"
  }
}

run "refuses_another_environment" {
  command = plan
  variables { environment = "staging" }
  expect_failures = [var.environment]
}
