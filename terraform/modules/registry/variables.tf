variable "project_id" {
  description = "Project of the repository."
  type        = string
}

variable "location" {
  description = "Region of the repository: the cluster's, so that pulls are near and free."
  type        = string
}

variable "name" {
  description = "Name of the repository."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", var.name))
    error_message = "name \"${var.name}\" must be at most 63 small letters, digits and hyphens, beginning with a letter."
  }
}

variable "immutable_tags" {
  description = "A tag, once pushed, names the same image for ever. A moving tag such as `latest` needs false."
  type        = bool
  default     = true
}

variable "keep" {
  description = "The newest `recent` versions of each image stay whatever their age; untagged ones go after `untagged_days`."
  type = object({
    recent        = optional(number, 20)
    untagged_days = optional(number, 14)
  })
  default = {}

  validation {
    condition     = var.keep.recent >= 2 && var.keep.untagged_days >= 1
    error_message = "keep: recent ${var.keep.recent} must be at least 2 (what is live, and what to go back to), untagged_days ${var.keep.untagged_days} at least 1."
  }
}

variable "expire_days" {
  description = "Every image goes after so many days, the newest too: a repository of previews. null keeps what `keep` says."
  type        = number
  default     = null

  validation {
    condition     = var.expire_days == null || try(var.expire_days >= 1 && floor(var.expire_days) == var.expire_days, false)
    error_message = "expire_days ${coalesce(var.expire_days, 0)} must be a whole number of at least 1."
  }
}

variable "readers" {
  description = "Who pulls: name -> member, as IAM writes it."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for member in values(var.readers) : !contains(["allUsers", "allAuthenticatedUsers"], member)])
    error_message = "readers: allUsers and allAuthenticatedUsers would publish the images; name accounts or groups."
  }
}

variable "writers" {
  description = "Who pushes: name -> member."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for member in values(var.writers) : startswith(member, "serviceAccount:") || startswith(member, "principal")])
    error_message = "writers: ${join(", ", [for member in values(var.writers) : member if !(startswith(member, "serviceAccount:") || startswith(member, "principal"))])}: images are pushed by the release workflow; name a service account or a federated identity, not a person."
  }
}
