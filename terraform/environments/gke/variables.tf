variable "environment" {
  description = "ephemeral (made for a test, destroyed after it), dev or prod."
  type        = string

  validation {
    condition     = contains(["ephemeral", "dev", "prod"], var.environment)
    error_message = "environment \"${var.environment}\" must be ephemeral, dev or prod; give -var-file=dev.tfvars."
  }
}

variable "project_id" {
  description = "Google Cloud project; TF_VAR_project_id, since it is yours and not the repository's."
  type        = string
}

variable "region" {
  description = "Region of everything. GPU types differ by region."
  type        = string
  default     = "us-central1"
}

variable "zones" {
  description = "Zones of the nodes; more than one also keeps serving when one fails."
  type        = list(string)

  validation {
    condition     = var.environment != "prod" || length(var.zones) >= 2
    error_message = "zones ${jsonencode(var.zones)}: prod needs at least two, so that a zone may fail."
  }
}

variable "ranges" {
  description = "Address ranges; see modules/network."
  type = object({
    nodes            = optional(string)
    pods             = optional(string)
    services         = optional(string)
    private_services = optional(string)
    proxies          = optional(string)
  })
  default = {}
}

variable "deletion_protection" {
  description = "Nothing that holds data, and not the cluster, can be destroyed."
  type        = bool

  validation {
    condition     = var.environment != "prod" || var.deletion_protection
    error_message = "deletion_protection must be true in prod; to take prod down, change this rule in a reviewed commit first."
  }
}

variable "control_plane" {
  description = "How the API server is reached; see modules/cluster."
  type = object({
    dns                 = optional(bool, true)
    public              = optional(bool, false)
    authorized_networks = optional(map(string), {})
  })
  default = {}

  validation {
    condition     = var.environment != "prod" || !var.control_plane.public
    error_message = "control_plane.public is true, and prod refuses a public address of the API server: leave it out; the DNS endpoint works from anywhere, with IAM."
  }
}

variable "images" {
  description = "Which images may run (modules/cluster: off, audit, enforce; `allowed` beside our own registry, `attestors` whose signature admits others), and whether tags may move."
  type = object({
    mode           = optional(string, "audit")
    allowed        = optional(list(string), [])
    attestors      = optional(list(string), [])
    immutable_tags = optional(bool, true)
  })
  default = {}

  validation {
    condition     = var.environment != "prod" || (var.images.mode == "enforce" && var.images.immutable_tags)
    error_message = "images: mode is \"${var.images.mode}\", immutable_tags ${var.images.immutable_tags}; prod needs mode = \"enforce\" and immutable_tags = true."
  }
}

variable "pools" {
  description = "Node pools; see modules/node_pools."
  type = map(object({
    machine_type    = string
    zones           = optional(list(string))
    min_nodes       = optional(number, 0)
    max_nodes       = number
    provisioning    = optional(string)
    max_run_seconds = optional(number)
    gpu_driver      = optional(string)
    image_streaming = optional(bool)
    local_ssds      = optional(number)
    disk            = optional(object({ type = optional(string), size_gib = optional(number) }))
    labels          = optional(map(string))
    taints          = optional(list(object({ key = string, value = string, effect = string })))
  }))

  validation {
    condition     = anytrue([for pool in values(var.pools) : pool.min_nodes >= 1 && coalesce(pool.provisioning, "on-demand") == "on-demand"])
    error_message = "pools ${join(", ", keys(var.pools))}: at least one on-demand pool needs min_nodes >= 1, for what the cluster itself runs."
  }
}

variable "databases" {
  description = "Cloud SQL for Kubeflow Pipelines and MLflow; null leaves them to pods, whose data goes with the cluster."
  type = object({
    tier             = optional(string)
    highly_available = optional(bool)
    disk_gib         = optional(number)
    backups          = optional(number)
  })
  default = null

  validation {
    condition     = var.environment != "prod" || try(var.databases.highly_available, false) == true
    error_message = "databases ${jsonencode(var.databases)}: prod needs highly_available = true."
  }
}

variable "edge" {
  description = "The public door: host name, who passes Identity-Aware Proxy, rate limit. null has none: `kubectl port-forward`. `public` leaves the proxy out. `iap_client_id` is the proxy's OAuth client, which Terraform cannot make (docs/deploy.md, step 8)."
  type = object({
    hostname      = string
    users         = optional(map(string), {})
    public        = optional(bool, false)
    iap_client_id = optional(string, "")
    rate_limit    = optional(object({ requests = optional(number), seconds = optional(number), ban_seconds = optional(number) }), {})
  })
  default = null

  validation {
    condition     = var.environment != "prod" || !try(var.edge.public, false)
    error_message = "edge.public is true, and prod refuses a public endpoint: whoever knows ${try(var.edge.hostname, "the name")} could use it; leave public out and name edge.users."
  }

  validation {
    condition     = try(var.edge.public, true) || length(try(var.edge.users, {})) > 0
    error_message = "edge.users is empty, so that nobody would pass Identity-Aware Proxy for ${try(var.edge.hostname, "it")}: name somebody (team = \"group:team@example.com\")."
  }

  validation {
    condition     = try(var.edge.public, true) || endswith(try(var.edge.iap_client_id, ""), ".apps.googleusercontent.com")
    error_message = "edge.iap_client_id \"${try(var.edge.iap_client_id, "")}\" is no OAuth client (NUMBER-TEXT.apps.googleusercontent.com), and GKE's gateway leaves Identity-Aware Proxy out without one: docs/deploy.md, step 8, says where it is made."
  }
}

variable "vertex" {
  description = "Vertex AI Pipelines too: its API, and the rights that `slipway submit --target vertex` needs."
  type        = bool
  default     = false
}

variable "log_days" {
  description = "How many days logs are kept, in a bucket of their own; see modules/monitoring."
  type        = number
  default     = null
}

variable "monitoring" {
  description = "Who is told, when, and the month's budget; see modules/monitoring."
  type = object({
    emails     = optional(set(string), [])
    thresholds = optional(object({ volume_percent = optional(number), verdict_days = optional(number) }), {})
    budget     = optional(object({ billing_account = string, per_month = number, currency = optional(string) }))
  })
  default = {}
}

variable "github" {
  description = "The accounts of environments/github, applied for this environment before, do here what they are for."
  type        = bool
  default     = false
}
