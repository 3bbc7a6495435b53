mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  image      = "us-central1-docker.pkg.dev/test-project/slipway/slipway-serving@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  release    = { fetch = "gs://test-project-dev-releases/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" }
}

run "a_release_is_fetched_and_verified_first" {
  assert {
    condition     = google_cloud_run_v2_service.server.template[0].containers[0].command == tolist(["sh", "-c"]) && google_cloud_run_v2_service.server.template[0].containers[0].args == tolist(["python -m serving.fetch \"$RELEASE_URI\" /tmp/release && exec python -m serving --model energy-chat --release /tmp/release"])
    error_message = "fetch, and only then serve"
  }
  assert {
    condition     = one([for one in google_cloud_run_v2_service.server.template[0].containers[0].env : one.value if one.name == "RELEASE_URI"]) == var.release.fetch
    error_message = "the address is an environment variable"
  }
  assert {
    condition     = google_storage_bucket_iam_member.releases[0].bucket == "test-project-dev-releases" && google_storage_bucket_iam_member.releases[0].role == "roles/storage.objectViewer"
    error_message = "it reads that bucket, and nothing else"
  }
  assert {
    condition     = output.cloud_run_url == google_cloud_run_v2_service.server.uri && output.revision == google_cloud_run_v2_service.server.latest_ready_revision && output.service_account == google_service_account.server[0].email
    error_message = "outputs"
  }
}

run "a_release_in_the_image_needs_no_rights" {
  variables { release = { baked = "/mnt/models" } }
  assert {
    condition     = google_cloud_run_v2_service.server.template[0].containers[0].command == tolist(["python"]) && google_cloud_run_v2_service.server.template[0].containers[0].args == tolist(["-m", "serving", "--model", "energy-chat", "--release", "/mnt/models"])
    error_message = "the server alone"
  }
  assert {
    condition     = length(google_storage_bucket_iam_member.releases) == 0
    error_message = "no bucket"
  }
}

run "it_listens_where_cloud_run_looks" {
  command = plan
  assert {
    condition     = one([for one in google_cloud_run_v2_service.server.template[0].containers[0].env : one.value if one.name == "HOST"]) == "0.0.0.0" && google_cloud_run_v2_service.server.template[0].containers[0].startup_probe[0].http_get[0].path == "/health"
    error_message = "all addresses, and /health"
  }
  assert {
    condition     = google_cloud_run_v2_service.server.template[0].max_instance_request_concurrency == 16 && one([for one in google_cloud_run_v2_service.server.template[0].containers[0].env : one.value if one.name == "SLIPWAY_MAX_RUNNING"]) == "16"
    error_message = "as many requests as the server computes at once"
  }
  assert {
    condition     = google_cloud_run_v2_service.server.template[0].scaling[0].min_instance_count == 0 && google_cloud_run_v2_service.server.template[0].scaling[0].max_instance_count == 2
    error_message = "nothing runs while nobody asks"
  }
}

run "closed_unless_public" {
  command = plan
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.public) == 0
    error_message = "nobody may call by default"
  }
}

run "public_when_said" {
  command = plan
  variables { public = true }
  assert {
    condition     = google_cloud_run_v2_service_iam_member.public[0].role == "roles/run.invoker" && google_cloud_run_v2_service_iam_member.public[0].member == "allUsers"
    error_message = "everybody may call, and do nothing else"
  }
}

run "the_newest_revision_gets_everything" {
  command = plan
  assert {
    condition     = google_cloud_run_v2_service.server.traffic[0].type == "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST" && google_cloud_run_v2_service.server.traffic[0].percent == 100
    error_message = "latest"
  }
}

run "going_back_is_naming_a_revision" {
  command = plan
  variables { traffic = { energy-chat-00001-abc = 100 } }
  assert {
    condition     = google_cloud_run_v2_service.server.traffic[0].revision == "energy-chat-00001-abc" && length(google_cloud_run_v2_service.server.traffic) == 1
    error_message = "the old one"
  }
}

run "a_preview_uses_an_account_that_exists" {
  command = plan
  variables { service_account = "slipway-dev-demo@test-project.iam.gserviceaccount.com" }
  assert {
    condition     = google_cloud_run_v2_service.server.template[0].service_account == "slipway-dev-demo@test-project.iam.gserviceaccount.com" && length(google_service_account.server) == 0 && length(google_storage_bucket_iam_member.releases) == 0
    error_message = "no account and no right is made"
  }
}

run "refuses_a_long_name" {
  command = plan
  variables {
    service = "a-service-with-a-name-too-long"
  }
  expect_failures = [var.service]
}

run "refuses_a_tag" {
  command = plan
  variables {
    image = "us-docker.pkg.dev/p/r/slipway-serving:latest"
  }
  expect_failures = [var.image]
}

run "refuses_two_releases" {
  command = plan
  variables {
    release = { baked = "/mnt/models", fetch = "gs://b/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" }
  }
  expect_failures = [var.release]
}

run "refuses_no_release" {
  command = plan
  variables {
    release = {}
  }
  expect_failures = [var.release]
}

run "refuses_a_path_that_is_relative" {
  command = plan
  variables {
    release = { baked = "models" }
  }
  expect_failures = [var.release]
}

run "refuses_an_address_without_digest" {
  command = plan
  variables {
    release = { fetch = "gs://bucket/latest" }
  }
  expect_failures = [var.release]
}

run "refuses_three_cpus" {
  command = plan
  variables {
    resources = { cpu = "3" }
  }
  expect_failures = [var.resources]
}

run "refuses_memory_without_unit" {
  command = plan
  variables {
    resources = { memory = "4096" }
  }
  expect_failures = [var.resources]
}

run "refuses_a_minimum_above_the_maximum" {
  command = plan
  variables {
    scaling = { min = 3 }
  }
  expect_failures = [var.scaling]
}

run "refuses_no_requests" {
  command = plan
  variables {
    scaling = { concurrency = 0 }
  }
  expect_failures = [var.scaling]
}

run "refuses_traffic_that_is_not_all" {
  command = plan
  variables {
    traffic = { a = 90 }
  }
  expect_failures = [var.traffic]
}
