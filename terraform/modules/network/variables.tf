variable "project_id" {
  description = "Project of the network."
  type        = string
}

variable "name" {
  description = "Name of the network; what belongs to it begins with it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", var.name))
    error_message = "name \"${var.name}\" must be at most 40 small letters, digits and hyphens, beginning with a letter."
  }
}

variable "region" {
  description = "Region of subnet and NAT."
  type        = string
}

variable "ranges" {
  description = "Address ranges (CIDR) of nodes, pods, services, Google's private services (Cloud SQL), and the proxies of internal load balancers."
  type = object({
    nodes            = optional(string, "10.0.0.0/22")  # 1,000 nodes
    pods             = optional(string, "10.16.0.0/14") # a /24 a node: 1,000 nodes
    services         = optional(string, "10.1.0.0/20")  # 4,000 services
    private_services = optional(string, "10.2.0.0/20")
    proxies          = optional(string, "10.3.0.0/23") # what Google advises; a /26 at least
  })
  default = {}

  validation {
    condition     = alltrue([for range in values(var.ranges) : can(cidrnetmask(range)) && try(cidrhost(range, 0) == split("/", range)[0], false)])
    error_message = "ranges: ${join(", ", [for name, range in var.ranges : "${name} = \"${range}\"" if !try(cidrhost(range, 0) == split("/", range)[0], false)])} must be IPv4 networks such as 10.0.0.0/22, with the bits after the prefix zero."
  }

  validation {
    condition     = try(tonumber(split("/", var.ranges.pods)[1]) <= 21, true)
    error_message = "ranges.pods ${var.ranges.pods} is too small: each node takes a /24 of it, so that fewer than 8 nodes fit; give a /21 or larger."
  }

  validation {
    condition     = try(tonumber(split("/", var.ranges.proxies)[1]) <= 26, true)
    error_message = "ranges.proxies ${var.ranges.proxies} is too small: a load balancer takes addresses as it needs them, and Google wants a /26 or larger."
  }

  # two networks overlap when they are the same once both are cut to the shorter prefix
  validation {
    condition = alltrue(flatten([
      for i, one in values(var.ranges) : [
        for other in slice(values(var.ranges), i + 1, length(values(var.ranges))) : try(
          cidrhost("${split("/", one)[0]}/${min(split("/", one)[1], split("/", other)[1])}", 0) !=
          cidrhost("${split("/", other)[0]}/${min(split("/", one)[1], split("/", other)[1])}", 0),
          true
        )
      ]
    ]))
    error_message = "ranges overlap (${join("; ", [for name, range in var.ranges : "${name} ${range}"])}); give each its own addresses."
  }
}

variable "webhook_ports" {
  description = "Ports at which webhooks in pods answer the control plane: cert-manager 10250, KEDA 6443, KServe 9443, Kueue and JobSet 9443, others 8443."
  type        = set(number)
  default     = [443, 6443, 8443, 9443, 10250]

  validation {
    condition     = length(var.webhook_ports) > 0 && alltrue([for port in var.webhook_ports : port >= 1 && port <= 65535 && floor(port) == port])
    error_message = "webhook_ports ${jsonencode(var.webhook_ports)} must be ports from 1 to 65535, at least one."
  }
}

variable "flow_log_sampling" {
  description = "Share of the connections whose flows are logged; 1 logs, and costs, most."
  type        = number
  default     = 0.1

  validation {
    condition     = var.flow_log_sampling > 0 && var.flow_log_sampling <= 1
    error_message = "flow_log_sampling ${var.flow_log_sampling} must be above 0 and at most 1."
  }
}
