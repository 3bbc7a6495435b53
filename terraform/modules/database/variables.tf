variable "project_id" {
  description = "Project of the databases."
  type        = string
}

variable "prefix" {
  description = "An instance is PREFIX-KEY; a deleted one's name stays taken for a week."
  type        = string
}

variable "region" {
  description = "Region of the instances."
  type        = string
}

variable "network" {
  description = "Output `private_services_network` of the module network."
  type        = string
}

variable "deletion_protection" {
  description = "Terraform and Google refuse to delete the instances; ephemeral environments switch it off."
  type        = bool
  default     = true
}

variable "instances" {
  description = "Key -> instance: MySQL for Kubeflow Pipelines, Postgres for MLflow. `users`: name -> email of a Google service account that may sign in."
  type = map(object({
    version          = string
    database         = string
    tier             = optional(string, "db-custom-1-3840")
    highly_available = optional(bool, false)
    disk_gib         = optional(number, 10)
    backups          = optional(number, 7)
    users            = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for one in values(var.instances) : can(regex("^(MYSQL_8_[0-9]+|POSTGRES_1[5-9])$", one.version))])
    error_message = "instances: ${join(", ", [for key, one in var.instances : "${key}.version = \"${one.version}\"" if !can(regex("^(MYSQL_8_[0-9]+|POSTGRES_1[5-9])$", one.version))])} must be MYSQL_8_x or POSTGRES_15 and newer."
  }

  validation {
    condition     = alltrue([for one in values(var.instances) : !one.highly_available || can(regex("^db-(custom|perf)", one.tier))])
    error_message = "instances: ${join(", ", [for key, one in var.instances : "${key} (${one.tier})" if one.highly_available && !can(regex("^db-(custom|perf)", one.tier))])}: shared-core tiers have no agreement on availability; take db-custom-CPUS-MEMORY."
  }

  validation {
    condition     = alltrue([for one in values(var.instances) : one.disk_gib >= 10 && one.backups >= 1])
    error_message = "instances: disk_gib must be at least 10 and backups at least 1; given ${jsonencode({ for key, one in var.instances : key => [one.disk_gib, one.backups] })}."
  }

  validation {
    condition     = alltrue(flatten([for one in values(var.instances) : [for email in values(one.users) : !can(regex("^(user|serviceAccount|group):", email))]]))
    error_message = "instances: users ${jsonencode(flatten([for one in values(var.instances) : values(one.users)]))} must be emails of service accounts, without \"serviceAccount:\"."
  }
}
