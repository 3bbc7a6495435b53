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
    github     = true
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
    condition     = values(local.github) == tolist([for key in ["demo", "release", "submit"] : "serviceAccount:slipway-dev-${key}@test-project.iam.gserviceaccount.com"])
    error_message = "the accounts of environments/github, by name"
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
    github = true
  }

  assert {
    condition     = output.platform.VERTEX_PROJECT == "test-project" && output.platform.VERTEX_PIPELINE_ROOT == "gs://test-project-dev-pipelines/vertex" && output.platform.VERTEX_SERVICE_ACCOUNT != ""
    error_message = "slipway submit --target vertex reads them"
  }
  assert {
    condition     = google_service_account_iam_member.vertex[0].role == "roles/iam.serviceAccountUser" && google_project_iam_member.vertex[0].member == local.github["submit"]
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
    condition     = output.dns_records == null && length(local.github) == 0 && output.platform.PLATFORM_EDGE_HOSTNAME == "" && output.platform.PLATFORM_EDGE_IAP == "false"
    error_message = "no door, no GitHub"
  }
  assert {
    condition     = output.platform.PLATFORM_DATABASE_MLFLOW == "" && output.platform.PLATFORM_CLUSTER == "slipway-eph"
    error_message = "no database"
  }
}

run "a_preview_s_nodes_read_its_images" {
  command = plan
  variables {
    environment = "ephemeral"
    github      = true
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.previews[0].repository == "slipway-eph-previews" && contains(local.registries, "us-central1-docker.pkg.dev/test-project/slipway-eph-previews")
    error_message = "what the pull request's server is pulled from"
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
