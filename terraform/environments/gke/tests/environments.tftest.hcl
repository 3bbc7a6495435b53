mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id          = "test-project"
  environment         = "dev"
  zones               = ["us-central1-a"]
  deletion_protection = true
  pools = {
    system = { machine_type = "e2-standard-4", min_nodes = 1, max_nodes = 2 }
    l4     = { machine_type = "g2-standard-12", max_nodes = 2, provisioning = "spot" }
  }
}

run "everything_that_is_optional" {
  variables {
    databases  = { tier = "db-custom-1-3840" }
    edge       = { hostname = "chat.example.com", users = { team = "group:team@example.com" }, iap_client_id = "1-a.apps.googleusercontent.com" }
    monitoring = { emails = ["oncall@example.com"], budget = { billing_account = "012345-6789AB-CDEF01", per_month = 500 } }
    github     = { repository_id = "123", owner_id = "456", state_bucket = "state" }
  }

  assert {
    condition     = output.platform.SLIPWAY_REGISTRY == "us-central1-docker.pkg.dev/test-project/slipway-dev" && output.platform.PLATFORM_RELEASES == "gs://test-project-dev-releases"
    error_message = "where images and releases lie"
  }
  assert {
    condition     = output.platform.PLATFORM_EDGE_HOSTNAME == "chat.example.com" && output.platform.PLATFORM_EDGE_IAP == "true" && output.platform.PLATFORM_EDGE_IAP_CLIENT == "1-a.apps.googleusercontent.com" && output.dns_records.address.type == "A"
    error_message = "the public door, with the proxy"
  }
  assert {
    condition     = output.platform.PLATFORM_DATABASE_PIPELINES != "" && output.platform.PLATFORM_DATABASE_MLFLOW != ""
    error_message = "two databases"
  }
  assert {
    condition     = alltrue([for line in compact(split("\n", output.platform_env)) : can(regex("^[A-Z_]+=[^[:space:]'\"$`]*$", line))]) && length(compact(split("\n", output.platform_env))) == length(output.platform)
    error_message = "one NAME=VALUE a line, which a shell and Kustomize read alike"
  }
  assert {
    condition     = keys(output.github.service_accounts) == ["apply", "plan", "preview", "release", "submit"] && output.github.workload_identity_provider != ""
    error_message = "an account for each job"
  }
  assert {
    condition     = output.github.demo_service_account == google_service_account.demo[0].email && google_service_account_iam_member.demo[0].role == "roles/iam.serviceAccountUser"
    error_message = "the preview deploys as the demo's account, and as no other"
  }
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
  assert {
    condition     = [for name in ["project_id", "region", "cluster", "state_bucket", "preview_registry"] : output.github[name]] == ["test-project", "us-central1", "slipway-dev", "state", "us-central1-docker.pkg.dev/test-project/slipway-dev-previews"]
    error_message = "what the workflows read (ci/job.py)"
  }
  assert {
    condition     = output.gpu_quota["nvidia-l4"] == 2 && output.log_bucket != ""
    error_message = "the quota that the pools need, and where logs are"
  }
  assert {
    condition     = output.credentials_command == "gcloud container clusters get-credentials slipway-dev --project test-project --location us-central1 --dns-endpoint"
    error_message = "kubectl's way in"
  }
}

run "vertex_gets_its_rights" {
  variables {
    vertex = true
    github = { repository_id = "123", owner_id = "456", state_bucket = "state" }
  }

  assert {
    condition     = output.platform.VERTEX_PROJECT == "test-project" && output.platform.VERTEX_PIPELINE_ROOT == "gs://test-project-dev-pipelines/vertex" && output.platform.VERTEX_SERVICE_ACCOUNT != ""
    error_message = "slipway submit --target vertex reads them"
  }
  assert {
    condition     = google_service_account_iam_member.vertex[0].role == "roles/iam.serviceAccountUser"
    error_message = "who submits may say that the run acts as the steps' account"
  }
}

run "nothing_that_is_optional" {
  variables { environment = "ephemeral" }

  assert {
    condition     = alltrue([for name, value in output.platform : value == "" if startswith(name, "VERTEX_")]) && length(google_service_account_iam_member.vertex) == 0
    error_message = "no Vertex AI"
  }
  assert {
    condition     = output.platform.PLATFORM_PROXIES_RANGE == "10.3.0.0/23" && output.platform.PLATFORM_NODES_RANGE == "10.0.0.0/22"
    error_message = "where network policies let the gateway in"
  }

  assert {
    condition     = output.dns_records == null && output.github == null && output.platform.PLATFORM_EDGE_HOSTNAME == "" && output.platform.PLATFORM_EDGE_IAP == "false"
    error_message = "no door, no GitHub"
  }
  assert {
    condition     = output.platform.PLATFORM_DATABASE_MLFLOW == "" && output.platform.PLATFORM_CLUSTER == "slipway-eph"
    error_message = "no database"
  }
}

run "prod_as_it_must_be" {
  command = plan
  variables {
    environment = "prod"
    zones       = ["us-central1-a", "us-central1-b"]
    images      = { mode = "enforce" }
    databases   = { highly_available = true }
  }
}

run "refuses_another_environment" {
  command = plan
  variables {
    environment = "staging"
  }
  expect_failures = [var.environment]
}

run "prod_refuses_deletion" {
  command = plan
  variables {
    environment         = "prod"
    zones               = ["us-central1-a", "us-central1-b"]
    images              = { mode = "enforce" }
    databases           = { highly_available = true }
    deletion_protection = false
  }
  expect_failures = [var.deletion_protection]
}

run "prod_refuses_a_public_api_server" {
  command = plan
  variables {
    environment   = "prod"
    zones         = ["us-central1-a", "us-central1-b"]
    images        = { mode = "enforce" }
    databases     = { highly_available = true }
    control_plane = { public = true, authorized_networks = { office = "203.0.113.0/24" } }
  }
  expect_failures = [var.control_plane]
}

run "prod_refuses_a_public_door" {
  command = plan
  variables {
    environment = "prod"
    zones       = ["us-central1-a", "us-central1-b"]
    images      = { mode = "enforce" }
    databases   = { highly_available = true }
    edge        = { hostname = "chat.example.com", public = true }
  }
  expect_failures = [var.edge]
}

run "prod_refuses_unknown_images" {
  command = plan
  variables {
    environment = "prod"
    zones       = ["us-central1-a", "us-central1-b"]
    images      = { mode = "audit" }
    databases   = { highly_available = true }
  }
  expect_failures = [var.images]
}

run "prod_refuses_a_single_zone" {
  command = plan
  variables {
    environment = "prod"
    zones       = ["us-central1-a"]
    images      = { mode = "enforce" }
    databases   = { highly_available = true }
  }
  expect_failures = [var.zones]
}

run "prod_refuses_a_single_database" {
  command = plan
  variables {
    environment = "prod"
    zones       = ["us-central1-a", "us-central1-b"]
    images      = { mode = "enforce" }
    databases   = {}
  }
  expect_failures = [var.databases]
}

run "refuses_a_door_for_nobody" {
  command = plan
  variables {
    edge = { hostname = "chat.example.com", iap_client_id = "1-a.apps.googleusercontent.com" }
  }
  expect_failures = [var.edge]
}

run "refuses_a_sign_in_without_its_client" {
  command = plan
  variables {
    edge = { hostname = "chat.example.com", users = { team = "group:team@example.com" } }
  }
  expect_failures = [var.edge]
}

run "refuses_a_cluster_without_a_standing_node" {
  command = plan
  variables {
    pools = { l4 = { machine_type = "g2-standard-12", max_nodes = 2, provisioning = "spot" } }
  }
  expect_failures = [var.pools]
}
