terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 8"
    }
  }

  backend "gcs" {} # -backend-config: bucket and prefix; a preview takes a prefix of its own
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = { app = "slipway", environment = "demo" }
}
