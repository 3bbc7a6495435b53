variable "project_id" {
  description = "Project of the accounts."
  type        = string
}

variable "prefix" {
  description = "An account is PREFIX-KEY."
  type        = string
}

variable "workload_pool" {
  description = "The cluster's workload pool: PROJECT.svc.id.goog."
  type        = string

  validation {
    condition     = endswith(var.workload_pool, ".svc.id.goog")
    error_message = "workload_pool \"${var.workload_pool}\" must be PROJECT.svc.id.goog, as the output `cluster` of the module cluster says it."
  }
}

variable "accounts" {
  description = "Key -> the Kubernetes account that may act as it, and roles on the whole project; roles on buckets and secrets are granted there."
  type = map(object({
    namespace     = string
    name          = string
    description   = string
    project_roles = optional(set(string), [])
  }))

  validation {
    condition     = alltrue([for key in keys(var.accounts) : can(regex("^[a-z]([a-z0-9-]*[a-z0-9])?$", key)) && try(length("${var.prefix}-${key}") >= 6 && length("${var.prefix}-${key}") <= 30, true)])
    error_message = "accounts: ${join(", ", [for key in keys(var.accounts) : "${var.prefix}-${key}"])}: a Google account's name has 6 to 30 small letters, digits and hyphens; shorten the key or the prefix."
  }

  validation {
    condition     = length(distinct([for account in values(var.accounts) : "${account.namespace}/${account.name}"])) == length(var.accounts)
    error_message = "accounts: ${join(", ", [for account in values(var.accounts) : "${account.namespace}/${account.name}"])}: a Kubernetes account acts as one Google account; give each entry its own."
  }

  validation {
    condition     = alltrue(flatten([for account in values(var.accounts) : [for role in account.project_roles : !can(regex("(?i)(^roles/(owner|editor|viewer)$|admin$)", role))]]))
    error_message = "accounts: ${join(", ", flatten([for account in values(var.accounts) : [for role in account.project_roles : role if can(regex("(?i)(^roles/(owner|editor|viewer)$|admin$)", role))]]))} is more than a workload needs on a whole project; name the narrower role, or grant it on the one bucket or secret."
  }
}
