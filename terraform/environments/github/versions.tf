terraform {
  required_version = ">= 1.9" # validations that look at more than one variable

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 8"
    }
  }

  backend "gcs" {} # -backend-config: bucket, and prefix=slipway/github/ENVIRONMENT
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = { app = "slipway", environment = var.environment }
}
