variable "project_id" {
  description = "Project of the buckets."
  type        = string
}

variable "prefix" {
  description = "A bucket is PREFIX-KEY. Names of buckets are unique in the whole world: begin with the project's id."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{2,44}$", var.prefix)) && !can(regex("goog|g00gle", var.prefix))
    error_message = "prefix \"${var.prefix}\" must be 3 to 45 small letters, digits and hyphens, without \"goog\" (Google refuses it)."
  }
}

variable "location" {
  description = "Region of the buckets: the cluster's, so that reading costs no egress."
  type        = string
}

variable "buckets" {
  description = "Key -> bucket. `delete_after_days` removes objects by age; `noncurrent_days` is how long overwritten ones are kept; `retention_days` forbids deletion before; `force_destroy` lets Terraform delete a bucket that is not empty. `access`: name -> {role, member}, role reader, creator (adds, never overwrites) or writer."
  type = map(object({
    versioning        = optional(bool, true)
    delete_after_days = optional(number)
    noncurrent_days   = optional(number, 30)
    soft_delete_days  = optional(number, 7)
    retention_days    = optional(number)
    force_destroy     = optional(bool, false)
    access            = optional(map(object({ role = string, member = string })), {})
  }))

  validation {
    condition     = alltrue([for key in keys(var.buckets) : can(regex("^[a-z0-9]([a-z0-9-]{0,15}[a-z0-9])?$", key))])
    error_message = "buckets: keys ${jsonencode(keys(var.buckets))} must be at most 17 small letters, digits and hyphens."
  }

  validation {
    condition     = alltrue(flatten([for one in values(var.buckets) : [for grant in values(one.access) : contains(["reader", "creator", "writer"], grant.role)]]))
    error_message = "buckets: roles ${jsonencode(distinct(flatten([for one in values(var.buckets) : values(one.access)[*].role])))} must be reader, creator or writer."
  }

  validation {
    condition     = alltrue(flatten([for one in values(var.buckets) : [for grant in values(one.access) : !contains(["allUsers", "allAuthenticatedUsers"], grant.member)]]))
    error_message = "buckets: allUsers and allAuthenticatedUsers would publish a bucket; name accounts or groups."
  }

  validation {
    condition     = alltrue([for one in values(var.buckets) : one.soft_delete_days == 0 || (one.soft_delete_days >= 7 && one.soft_delete_days <= 90)])
    error_message = "buckets: soft_delete_days ${jsonencode({ for key, one in var.buckets : key => one.soft_delete_days })} must be 0 (off) or from 7 to 90."
  }

  validation {
    condition     = alltrue([for one in values(var.buckets) : one.retention_days == null || !one.versioning])
    error_message = "buckets: ${join(", ", [for key, one in var.buckets : key if one.retention_days != null && one.versioning])}: Google takes retention_days or versioning, not both."
  }

  validation {
    condition     = alltrue([for one in values(var.buckets) : one.delete_after_days == null || try(one.delete_after_days >= 1 && one.delete_after_days >= coalesce(one.retention_days, 0), false)])
    error_message = "buckets: delete_after_days ${jsonencode({ for key, one in var.buckets : key => one.delete_after_days if one.delete_after_days != null })} must be at least 1, and not before retention_days are over."
  }
}
