variable "project_id" {
  description = "Project of the secrets."
  type        = string
}

variable "region" {
  description = "Where the values lie."
  type        = string
}

variable "deletion_protection" {
  description = "Terraform refuses to destroy the secrets; ephemeral environments switch it off."
  type        = bool
  default     = true
}

variable "secrets" {
  description = "Name -> what it is."
  type = map(object({
    description = string
  }))

  validation {
    condition     = alltrue([for key in keys(var.secrets) : can(regex("^[a-z][a-z0-9-]{1,62}$", key))])
    error_message = "secrets: names ${jsonencode(keys(var.secrets))} must be small letters, digits and hyphens, beginning with a letter."
  }
}
