variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of the service."
  type        = string
  default     = "us-central1"
}

variable "service" {
  description = "Name of the service, and of the model in its HTTP API."
  type        = string
  default     = "energy-chat"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,24}[a-z0-9])$", var.service))
    error_message = "service \"${var.service}\" must be 2 to 26 small letters, digits and hyphens: with \"-run\" it names a service account."
  }
}

variable "image" {
  description = "The server's image by digest: serving/Dockerfile, or one with the release in it."
  type        = string

  validation {
    condition     = can(regex("^[^@[:space:]]+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image \"${var.image}\" must be named by digest (HOST/PROJECT/REPOSITORY/NAME@sha256:…): a tag may be another image tomorrow."
  }
}

variable "release" {
  description = "How the release comes: `baked`, its directory in the image, or `fetch`, its address, which ends with its digest; it is fetched and verified before the server starts."
  type = object({
    baked = optional(string)
    fetch = optional(string)
  })

  validation {
    condition     = (var.release.baked == null) != (var.release.fetch == null)
    error_message = "release: give exactly one of baked (${coalesce(var.release.baked, "not given")}) and fetch (${coalesce(var.release.fetch, "not given")})."
  }

  validation {
    condition     = var.release.baked == null || can(regex("^/[A-Za-z0-9._/-]+$", var.release.baked))
    error_message = "release.baked \"${coalesce(var.release.baked, "none")}\" must be a path from the root, such as /mnt/models."
  }

  validation {
    condition     = var.release.fetch == null || can(regex("^(gs|https)://[A-Za-z0-9._/-]+/[0-9a-f]{64}$", var.release.fetch))
    error_message = "release.fetch \"${coalesce(var.release.fetch, "none")}\" must be gs:// or https:// and end with the 64 hexadecimal digits of the release's digest (`slipway rollout status`)."
  }
}

variable "public" {
  description = "Everybody may call it. Otherwise only who has roles/run.invoker."
  type        = bool
  default     = false
}

variable "service_account" {
  description = "Email of an account that exists, for who may not make one (a preview); null makes one."
  type        = string
  default     = null
}

variable "resources" {
  description = "CPUs and memory of an instance; a fetched release lies in memory too."
  type = object({
    cpu    = optional(string, "4")
    memory = optional(string, "4Gi")
  })
  default = {}

  validation {
    condition     = contains(["1", "2", "4", "6", "8"], var.resources.cpu)
    error_message = "resources.cpu \"${var.resources.cpu}\" must be 1, 2, 4, 6 or 8."
  }

  validation {
    condition     = can(regex("^[0-9]+Gi$", var.resources.memory))
    error_message = "resources.memory \"${var.resources.memory}\" must be in Gi, such as 4Gi."
  }
}

variable "scaling" {
  description = "Instances from `min` (0: none while nobody asks) to `max`, requests at once in each, and the longest answer."
  type = object({
    min             = optional(number, 0)
    max             = optional(number, 2)
    concurrency     = optional(number, 16)
    timeout_seconds = optional(number, 300)
  })
  default = {}

  validation {
    condition     = var.scaling.min >= 0 && var.scaling.max >= 1 && var.scaling.min <= var.scaling.max
    error_message = "scaling: min ${var.scaling.min} and max ${var.scaling.max}: need 0 <= min <= max, and max at least 1."
  }

  validation {
    condition     = var.scaling.concurrency >= 1 && var.scaling.concurrency <= 1000 && var.scaling.timeout_seconds >= 1 && var.scaling.timeout_seconds <= 3600
    error_message = "scaling: concurrency ${var.scaling.concurrency} must be from 1 to 1000, timeout_seconds ${var.scaling.timeout_seconds} from 1 to 3600."
  }
}

variable "traffic" {
  description = "Revision -> percent, to go back (`gcloud run revisions list`); {} sends everything to the newest."
  type        = map(number)
  default     = {}

  validation {
    condition     = length(var.traffic) == 0 || try(sum(values(var.traffic)) == 100, false)
    error_message = "traffic ${jsonencode(var.traffic)} must add up to 100."
  }
}

variable "deletion_protection" {
  description = "Terraform refuses to destroy the service; a demo that lives ten minutes leaves it off."
  type        = bool
  default     = false
}
