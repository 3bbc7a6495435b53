variable "project_id" {
  description = "Project that is watched."
  type        = string
}

variable "name" {
  description = "What alerts, metrics and the log bucket are called."
  type        = string
}

variable "region" {
  description = "Where the logs lie."
  type        = string
}

variable "cluster" {
  description = "Name of the cluster whose pods' lines are kept."
  type        = string
}

variable "emails" {
  description = "Who is told; at most five, since a budget takes no more channels."
  type        = set(string)

  validation {
    condition     = length(var.emails) <= 5 && alltrue([for email in var.emails : can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", email))])
    error_message = "emails ${jsonencode(var.emails)} must be at most five addresses such as oncall@example.com."
  }
}

variable "log_days" {
  description = "How long log lines are kept."
  type        = number
  default     = 30

  validation {
    condition     = var.log_days >= 1 && var.log_days <= 3650
    error_message = "log_days ${var.log_days} must be from 1 to 3650."
  }
}

variable "thresholds" {
  description = "When an alert begins."
  type = object({
    failed_percent      = optional(number, 1)
    first_token_seconds = optional(number, 5)
  })
  default = {}

  validation {
    condition     = var.thresholds.failed_percent > 0 && var.thresholds.failed_percent < 100 && var.thresholds.first_token_seconds > 0
    error_message = "thresholds: failed_percent ${var.thresholds.failed_percent} must be between 0 and 100, first_token_seconds ${var.thresholds.first_token_seconds} above 0."
  }
}

variable "budget" {
  description = "Money a month at which the emails are told; null is no budget alert. It tells, it does not stop."
  type = object({
    billing_account = string
    per_month       = number
    currency        = optional(string, "USD")
  })
  default = null

  validation {
    condition     = var.budget == null || can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.budget.billing_account))
    error_message = "budget.billing_account \"${try(var.budget.billing_account, "")}\" must be as `gcloud billing accounts list` prints it: 012345-6789AB-CDEF01."
  }

  validation {
    condition     = var.budget == null || try(var.budget.per_month >= 1 && floor(var.budget.per_month) == var.budget.per_month, false)
    error_message = "budget.per_month ${try(var.budget.per_month, "")} must be a whole number of at least 1."
  }
}
