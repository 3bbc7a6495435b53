terraform {
  required_version = ">= 1.9" # validations that look at more than one variable

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 8"
    }
  }
}
