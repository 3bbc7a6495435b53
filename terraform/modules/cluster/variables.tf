variable "project_id" {
  description = "Project of the cluster."
  type        = string
}

variable "name" {
  description = "Name of the cluster; its nodes' account is NAME-node."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,22}[a-z0-9]$", var.name))
    error_message = "name \"${var.name}\" must be 6 to 24 small letters, digits and hyphens: with \"-node\" it names a service account, of which Google takes 30 characters."
  }
}

variable "region" {
  description = "Region of the control plane."
  type        = string
}

variable "zones" {
  description = "Zones of the nodes."
  type        = list(string)

  validation {
    condition     = length(var.zones) > 0 && alltrue([for zone in var.zones : startswith(zone, "${var.region}-")])
    error_message = "zones ${jsonencode(var.zones)} must be at least one zone of ${var.region}, such as ${var.region}-a."
  }
}

variable "network" {
  description = "Output `network` of the module network."
  type = object({
    id             = string
    subnet         = string
    pods_range     = string
    services_range = string
  })
}

variable "control_plane" {
  description = "How the API server is reached: `dns` through its DNS name with IAM; `public` at a public address too, from `authorized_networks` (name -> CIDR) alone. Those also limit the private address."
  type = object({
    dns                 = optional(bool, true)
    public              = optional(bool, false)
    authorized_networks = optional(map(string), {})
  })
  default = {}

  validation {
    condition     = !var.control_plane.public || length(var.control_plane.authorized_networks) > 0
    error_message = "control_plane.public is ${var.control_plane.public} and authorized_networks is empty, so that nobody is let in: name those who may come, or leave public out and use the DNS endpoint."
  }

  validation {
    condition     = alltrue([for name, range in var.control_plane.authorized_networks : can(cidrhost(range, 0)) && !endswith(range, "/0")])
    error_message = "control_plane.authorized_networks: ${join(", ", [for name, range in var.control_plane.authorized_networks : "${name} = \"${range}\"" if !can(cidrhost(range, 0)) || endswith(range, "/0")])} must be a CIDR that is not the whole internet."
  }
}

variable "deletion_protection" {
  description = "Terraform refuses to destroy the cluster; ephemeral environments switch it off."
  type        = bool
  default     = true
}

variable "release_channel" {
  description = "How early new versions of Kubernetes come."
  type        = string
  default     = "REGULAR"

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED"], var.release_channel)
    error_message = "release_channel \"${var.release_channel}\" must be RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "maintenance" {
  description = "When Google may upgrade (RFC 3339 times of one occurrence, RFC 5545 recurrence), and spans without minor upgrades."
  type = object({
    start      = optional(string, "2026-01-03T03:00:00Z")
    end        = optional(string, "2026-01-03T11:00:00Z")
    recurrence = optional(string, "FREQ=WEEKLY;BYDAY=SA,SU")
    exclusions = optional(map(object({ start = string, end = string })), {})
  })
  default = {}

  validation {
    condition     = try(timecmp(timeadd(var.maintenance.start, "4h"), var.maintenance.end) <= 0, false)
    error_message = "maintenance from ${var.maintenance.start} to ${var.maintenance.end} must be at least 4 hours (times as 2026-01-03T03:00:00Z): GKE wants 48 hours in 32 days, in spans of 4 or more."
  }
}

variable "images" {
  description = "Binary Authorization: `audit` logs what `enforce` would refuse. `allowed`: patterns of image names; `attestors`: whose signature admits other images."
  type = object({
    mode      = optional(string, "audit")
    allowed   = optional(list(string), [])
    attestors = optional(list(string), [])
  })
  default = {}

  validation {
    condition     = contains(["off", "audit", "enforce"], var.images.mode)
    error_message = "images.mode \"${var.images.mode}\" must be off, audit or enforce."
  }

  validation {
    condition     = var.images.mode != "enforce" || length(var.images.allowed) + length(var.images.attestors) > 0
    error_message = "images.mode enforce with neither allowed nor attestors would refuse every image; name the registry in images.allowed."
  }

  validation {
    condition     = alltrue([for pattern in var.images.allowed : can(regex("^[^*]+/[^*]*\\*{0,2}$", pattern))])
    error_message = "images.allowed: ${jsonencode([for pattern in var.images.allowed : pattern if !can(regex("^[^*]+/[^*]*\\*{0,2}$", pattern))])} must name a registry and a path; * stands at the end only (HOST/PROJECT/REPOSITORY/**)."
  }
}

variable "labels" {
  description = "Labels of the cluster, for the bill."
  type        = map(string)
  default     = {}
}
