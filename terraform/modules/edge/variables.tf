variable "project_id" {
  description = "Project of address, certificate and policy."
  type        = string
}

variable "name" {
  description = "Name of each of them."
  type        = string
}

variable "hostname" {
  description = "Where users come in: a name in a DNS zone that you can write to."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", var.hostname))
    error_message = "hostname \"${var.hostname}\" must be a full name such as chat.example.com, without https:// and without a wildcard."
  }
}

variable "users" {
  description = "Who passes Identity-Aware Proxy: name -> member (user:, group:, domain:, serviceAccount:)."
  type        = map(string)

  validation {
    condition     = alltrue([for member in values(var.users) : can(regex("^(user|group|domain|serviceAccount):[^:]+$", member))])
    error_message = "users ${jsonencode(values(var.users))} must be user:, group:, domain: or serviceAccount: and a name; allUsers would make Identity-Aware Proxy an open door."
  }
}

variable "rate_limit" {
  description = "`requests` in `seconds` from one address, then 429; ten times as many, and it is refused for `ban_seconds`."
  type = object({
    requests    = optional(number, 60)
    seconds     = optional(number, 60)
    ban_seconds = optional(number, 600)
  })
  default = {}

  validation {
    condition     = var.rate_limit.requests >= 1 && var.rate_limit.requests <= 1000
    error_message = "rate_limit.requests ${var.rate_limit.requests} must be from 1 to 1000 (the ban begins at ten times as many, and Cloud Armor counts to 10,000)."
  }

  validation {
    condition     = contains([10, 30, 60, 120, 180, 240, 270, 300, 600, 900, 1200, 1800, 2700, 3600], var.rate_limit.seconds)
    error_message = "rate_limit.seconds ${var.rate_limit.seconds} must be one of Cloud Armor's spans: 10, 30, 60, 120, 180, 240, 270, 300, 600, 900, 1200, 1800, 2700, 3600."
  }
}
