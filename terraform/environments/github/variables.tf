variable "environment" {
  description = "Whose jobs they are: the environment of environments/gke."
  type        = string

  validation {
    condition     = contains(["ephemeral", "dev", "prod"], var.environment)
    error_message = "environment \"${var.environment}\" must be ephemeral, dev or prod."
  }
}

variable "project_id" {
  description = "Google Cloud project; TF_VAR_project_id, as for environments/gke."
  type        = string
}

variable "region" {
  description = "Region of the environment, and of the previews' images."
  type        = string
  default     = "us-central1"
}

variable "repository" {
  description = "The repository whose workflows may act here, by number: `gh api repos/OWNER/NAME --jq '.id, .owner.id'`."
  type        = object({ id = string, owner_id = string })
}

variable "state_bucket" {
  description = "The bucket of Terraform's state, which is made before Terraform runs."
  type        = string
}
