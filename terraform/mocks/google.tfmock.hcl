# What the tests' mock provider computes where another resource, or the provider's own checks, need a certain form: an
# account's name has 6 to 30 characters, for example.
mock_resource "google_service_account" {
  defaults = {
    name   = "projects/test-project/serviceAccounts/mock-account@test-project.iam.gserviceaccount.com"
    email  = "mock-account@test-project.iam.gserviceaccount.com"
    member = "serviceAccount:mock-account@test-project.iam.gserviceaccount.com"
  }
}

mock_resource "google_compute_network" {
  defaults = {
    id = "projects/test-project/global/networks/mock"
  }
}

mock_resource "google_compute_subnetwork" {
  defaults = {
    id = "projects/test-project/regions/us-central1/subnetworks/mock"
  }
}

mock_resource "google_container_cluster" {
  defaults = {
    id = "projects/test-project/locations/us-central1/clusters/mock"
  }
}

mock_resource "google_iam_workload_identity_pool" {
  defaults = {
    name = "projects/123456789012/locations/global/workloadIdentityPools/mock"
  }
}

mock_resource "google_monitoring_notification_channel" {
  defaults = {
    id = "projects/test-project/notificationChannels/1"
  }
}

mock_resource "google_logging_project_bucket_config" {
  defaults = {
    id = "projects/test-project/locations/us-central1/buckets/mock"
  }
}
