mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  prefix     = "test-project-dev"
  location   = "us-central1"
  buckets = {
    data = { access = { steps = { role = "reader", member = "serviceAccount:steps@p.iam.gserviceaccount.com" } } }
    releases = {
      versioning     = false
      retention_days = 30
      access = {
        predictor = { role = "reader", member = "serviceAccount:predictor@p.iam.gserviceaccount.com" }
        steps     = { role = "creator", member = "serviceAccount:steps@p.iam.gserviceaccount.com" }
      }
    }
    checkpoints = { versioning = false, delete_after_days = 14, soft_delete_days = 0, force_destroy = true, access = { steps = { role = "writer", member = "serviceAccount:steps@p.iam.gserviceaccount.com" } } }
  }
}

run "buckets_are_closed_and_versioned" {
  assert {
    condition     = alltrue([for bucket in google_storage_bucket.bucket : bucket.uniform_bucket_level_access && bucket.public_access_prevention == "enforced"])
    error_message = "uniform access, never public"
  }
  assert {
    condition     = { for key, bucket in google_storage_bucket.bucket : key => bucket.versioning[0].enabled } == { checkpoints = false, data = true, releases = false }
    error_message = "versioning unless switched off"
  }
  assert {
    condition     = output.urls["releases"] == "gs://test-project-dev-releases" && length(output.urls) == 3
    error_message = "addresses of the buckets"
  }
}

run "they_keep_what_they_say" {
  assert {
    condition     = { for key, bucket in google_storage_bucket.bucket : key => [for rule in bucket.lifecycle_rule : one(rule.condition[*].age) if one(rule.action[*].type) == "Delete" && length(bucket.lifecycle_rule) == 3 && rule == bucket.lifecycle_rule[0]] } == { checkpoints = [14], data = [], releases = [] }
    error_message = "objects go by age where delete_after_days says so"
  }
  assert {
    condition     = tonumber(google_storage_bucket.bucket["releases"].retention_policy[0].retention_period) == 2592000 # a string since google 7
    error_message = "releases cannot be deleted for 30 days"
  }
  assert {
    condition     = google_storage_bucket.bucket["data"].soft_delete_policy[0].retention_duration_seconds == 604800 && google_storage_bucket.bucket["checkpoints"].soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "soft delete"
  }
  assert {
    condition     = google_storage_bucket.bucket["checkpoints"].force_destroy && !google_storage_bucket.bucket["data"].force_destroy
    error_message = "a full bucket is not destroyed unless it says so"
  }
}

run "each_may_do_what_it_needs" {
  assert {
    condition = { for key, one in google_storage_bucket_iam_member.access : key => one.role } == {
      "checkpoints steps"  = "roles/storage.objectUser"
      "data steps"         = "roles/storage.objectViewer"
      "releases predictor" = "roles/storage.objectViewer"
      "releases steps"     = "roles/storage.objectCreator"
    }
    error_message = "one grant for each entry of access"
  }
}

run "refuses_a_prefix_that_google_refuses" {
  command = plan
  variables { prefix = "google-slipway" }
  expect_failures = [var.prefix]
}

run "refuses_a_key_that_is_none" {
  command = plan
  variables { buckets = { "Data" = {} } }
  expect_failures = [var.buckets]
}

run "refuses_an_unknown_role" {
  command = plan
  variables { buckets = { data = { access = { me = { role = "admin", member = "user:me@example.com" } } } } }
  expect_failures = [var.buckets]
}

run "refuses_to_publish" {
  command = plan
  variables { buckets = { data = { access = { all = { role = "reader", member = "allUsers" } } } } }
  expect_failures = [var.buckets]
}

run "refuses_three_days_of_soft_delete" {
  command = plan
  variables { buckets = { data = { soft_delete_days = 3 } } }
  expect_failures = [var.buckets]
}

run "refuses_retention_with_versioning" {
  command = plan
  variables { buckets = { data = { retention_days = 30 } } }
  expect_failures = [var.buckets]
}

run "refuses_to_delete_what_must_be_kept" {
  command = plan
  variables { buckets = { data = { versioning = false, retention_days = 30, delete_after_days = 7 } } }
  expect_failures = [var.buckets]
}
