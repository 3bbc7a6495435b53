variable "project_id" {
  description = "Project whose APIs are switched on."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id \"${var.project_id}\" is no project id; give the id (my-project-123), not the number or the display name."
  }
}

variable "services" {
  description = "APIs by their full names, for example run.googleapis.com."
  type        = set(string)

  validation {
    condition     = alltrue([for one in var.services : can(regex("^[a-z][a-z0-9-]+\\.googleapis\\.com$", one))])
    error_message = "services: ${join(", ", [for one in var.services : one if !can(regex("^[a-z][a-z0-9-]+\\.googleapis\\.com$", one))])} is no API's full name; write run.googleapis.com, not run."
  }
}
