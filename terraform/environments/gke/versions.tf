terraform {
  required_version = ">= 1.9" # validations that look at more than one variable

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 8"
    }
  }

  backend "gcs" {} # ENVIRONMENT.gcs.tfbackend, and the bucket's name
}

provider "google" {
  project        = var.project_id
  region         = var.region
  default_labels = local.labels
}
