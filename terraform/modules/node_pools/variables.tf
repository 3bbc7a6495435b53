variable "project_id" {
  description = "Project of the cluster."
  type        = string
}

variable "cluster" {
  description = "Output `cluster` of the module cluster."
  type = object({
    id           = string
    node_account = string
    zones        = list(string)
  })
}

variable "node_tag" {
  description = "Network tag that the firewall knows the nodes by."
  type        = string
}

variable "pools" {
  description = "Name -> pool. `min_nodes` and `max_nodes` count over all zones. `provisioning`: on-demand, spot, flex-start (waits for capacity) or queued (the same, by ProvisioningRequest, all nodes at once); the last two end a node after `max_run_seconds`. GPUs follow from the machine type."
  type = map(object({
    machine_type    = string
    zones           = optional(list(string)) # the cluster's
    min_nodes       = optional(number, 0)
    max_nodes       = number
    provisioning    = optional(string, "on-demand")
    max_run_seconds = optional(number)
    gpu_driver      = optional(string, "LATEST")
    image_streaming = optional(bool, true)
    local_ssds      = optional(number, 0)
    disk            = optional(object({ type = optional(string, "pd-balanced"), size_gib = optional(number, 100) }), {})
    labels          = optional(map(string), {})
    taints          = optional(list(object({ key = string, value = string, effect = string })), [])
  }))

  validation {
    condition     = alltrue([for name, pool in var.pools : can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", name))])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "\"${name}\"" if !can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", name))])} must be at most 40 small letters, digits and hyphens, beginning with a letter."
  }

  validation {
    condition     = alltrue([for pool in var.pools : contains(["on-demand", "spot", "flex-start", "queued"], pool.provisioning)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name}.provisioning = \"${pool.provisioning}\"" if !contains(["on-demand", "spot", "flex-start", "queued"], pool.provisioning)])} must be exactly one of on-demand, spot, flex-start, queued."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.max_run_seconds == null || contains(["flex-start", "queued"], pool.provisioning)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : name if pool.max_run_seconds != null && !contains(["flex-start", "queued"], pool.provisioning)])}: max_run_seconds is for flex-start and queued; leave it out, or change provisioning."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.max_run_seconds == null || try(pool.max_run_seconds >= 600 && pool.max_run_seconds <= 604800, false)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name}.max_run_seconds = ${coalesce(pool.max_run_seconds, 0)}" if pool.max_run_seconds != null])} must be from 600 to 604800 (seven days)."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.min_nodes >= 0 && pool.max_nodes >= 1 && pool.min_nodes <= pool.max_nodes])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name} from ${pool.min_nodes} to ${pool.max_nodes} nodes" if !(pool.min_nodes >= 0 && pool.max_nodes >= 1 && pool.min_nodes <= pool.max_nodes)])}: need 0 <= min_nodes <= max_nodes, and max_nodes at least 1."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.min_nodes == 0 || !contains(["flex-start", "queued"], pool.provisioning)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : name if pool.min_nodes > 0 && contains(["flex-start", "queued"], pool.provisioning)])}: flex-start and queued nodes come when a pod asks; set min_nodes = 0."
  }

  validation {
    condition     = alltrue([for pool in var.pools : !can(regex("^(a|g)[0-9]-", pool.machine_type)) || contains(keys(local.gpu_machines), pool.machine_type)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name}.machine_type = \"${pool.machine_type}\"" if can(regex("^(a|g)[0-9]-", pool.machine_type)) && !contains(keys(local.gpu_machines), pool.machine_type)])} is no GPU machine that gpu.tf knows: choose one of ${join(", ", keys(local.gpu_machines))}, or add it there."
  }

  validation {
    condition     = alltrue([for pool in var.pools : pool.provisioning != "on-demand" || !contains(local.never_on_demand, pool.machine_type)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name} (${pool.machine_type})" if pool.provisioning == "on-demand" && contains(local.never_on_demand, pool.machine_type)])} is not sold on demand; set provisioning to spot, flex-start or queued, or take a3-highgpu-8g."
  }

  validation {
    condition     = alltrue([for pool in var.pools : contains(["DEFAULT", "LATEST"], pool.gpu_driver)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name}.gpu_driver = \"${pool.gpu_driver}\"" if !contains(["DEFAULT", "LATEST"], pool.gpu_driver)])} must be DEFAULT or LATEST."
  }

  validation {
    condition     = alltrue([for pool in var.pools : contains(try(local.gpu_machines[pool.machine_type].local_ssds, [0, 1, 2, 4, 8, 16, 24]), pool.local_ssds)])
    error_message = "pools: ${join(", ", [for name, pool in var.pools : "${name}.local_ssds = ${pool.local_ssds} (${pool.machine_type} takes ${join(", ", try(local.gpu_machines[pool.machine_type].local_ssds, [0, 1, 2, 4, 8, 16, 24]))})" if !contains(try(local.gpu_machines[pool.machine_type].local_ssds, [0, 1, 2, 4, 8, 16, 24]), pool.local_ssds)])}."
  }

  validation {
    condition     = alltrue(flatten([for pool in var.pools : [for taint in pool.taints : contains(["NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"], taint.effect)]]))
    error_message = "pools: a taint's effect must be NO_SCHEDULE, PREFER_NO_SCHEDULE or NO_EXECUTE (Terraform's names, not Kubernetes'); ${jsonencode(flatten([for pool in var.pools : pool.taints[*].effect]))} was given."
  }
}
