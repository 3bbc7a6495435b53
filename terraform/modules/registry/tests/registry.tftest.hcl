mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  location   = "us-central1"
  name       = "slipway"
  readers    = { nodes = "serviceAccount:nodes@test-project.iam.gserviceaccount.com" }
  writers    = { release = "serviceAccount:release@test-project.iam.gserviceaccount.com" }
}

run "tags_do_not_move_and_old_images_go" {
  assert {
    condition     = google_artifact_registry_repository.images.docker_config[0].immutable_tags
    error_message = "immutable by default"
  }
  assert {
    condition     = one([for policy in google_artifact_registry_repository.images.cleanup_policies : policy.condition[0].older_than if policy.id == "delete-untagged"]) == "1209600s"
    error_message = "untagged images go after 14 days"
  }
  assert {
    condition     = one([for policy in google_artifact_registry_repository.images.cleanup_policies : policy.most_recent_versions[0].keep_count if policy.id == "keep-recent"]) == 20
    error_message = "the newest 20 stay"
  }
  assert {
    condition     = output.address == "us-central1-docker.pkg.dev/test-project/slipway"
    error_message = "the address of its images"
  }
}

run "who_pulls_and_who_pushes" {
  assert {
    condition     = google_artifact_registry_repository_iam_member.reader["nodes"].role == "roles/artifactregistry.reader" && google_artifact_registry_repository_iam_member.writer["release"].role == "roles/artifactregistry.writer"
    error_message = "readers read, writers write"
  }
}

run "moving_tags_where_wanted" {
  command = plan
  variables { immutable_tags = false }
  assert {
    condition     = !google_artifact_registry_repository.images.docker_config[0].immutable_tags
    error_message = "the variable decides"
  }
}

run "previews_keep_nothing" {
  command = plan
  variables { expire_days = 1 }
  assert {
    condition     = one(google_artifact_registry_repository.images.cleanup_policies).action == "DELETE" && one(one(google_artifact_registry_repository.images.cleanup_policies).condition).older_than == "86400s" && one(one(google_artifact_registry_repository.images.cleanup_policies).condition).tag_state == "ANY"
    error_message = "tagged or not, an image goes after a day, and nothing is kept for being new"
  }
}

run "refuses_to_expire_at_once" {
  command = plan
  variables { expire_days = 0 }
  expect_failures = [var.expire_days]
}

run "refuses_a_name_that_is_none" {
  command = plan
  variables { name = "Slipway" }
  expect_failures = [var.name]
}

run "refuses_to_keep_nothing_to_go_back_to" {
  command = plan
  variables { keep = { recent = 1 } }
  expect_failures = [var.keep]
}

run "refuses_the_world_as_reader" {
  command = plan
  variables { readers = { all = "allUsers" } }
  expect_failures = [var.readers]
}

run "refuses_a_person_as_writer" {
  command = plan
  variables { writers = { me = "user:me@example.com" } }
  expect_failures = [var.writers]
}
