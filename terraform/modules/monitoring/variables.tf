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
  description = "How long log lines are kept, in a bucket of their own; null leaves them in the project's, with its retention (30 days). A deleted bucket's name stays taken for a week: an environment that is destroyed and made again has none."
  type        = number
  default     = null

  validation {
    condition     = var.log_days == null || try(var.log_days >= 1 && var.log_days <= 3650, false)
    error_message = "log_days ${coalesce(var.log_days, 0)} must be from 1 to 3650."
  }
}

variable "thresholds" {
  description = "When an alert begins that stands here. verdict_days: how long no run may have been judged, for a project that retrains by a schedule; null is never told. What is promised of a service stands in manifests/monitoring/serving-rules.yaml."
  type = object({
    volume_percent = optional(number, 85)
    verdict_days   = optional(number)
  })
  default = {}

  validation {
    condition     = var.thresholds.volume_percent > 0 && var.thresholds.volume_percent < 100
    error_message = "thresholds.volume_percent ${var.thresholds.volume_percent} must be between 0 and 100."
  }

  validation {
    condition     = var.thresholds.verdict_days == null || try(var.thresholds.verdict_days >= 1 && floor(var.thresholds.verdict_days) == var.thresholds.verdict_days, false)
    error_message = "thresholds.verdict_days ${jsonencode(var.thresholds.verdict_days)} must be a whole number of days of at least 1."
  }
}

variable "budget" {
  description = "Money a month at which the emails are told; null is no budget alert. It tells, it does not stop. `currency` can be no other than the billing account's, which it is without being said."
  type = object({
    billing_account = string
    per_month       = number
    currency        = optional(string)
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
