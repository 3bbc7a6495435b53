variable "project_id" {
  description = "Project of pool and accounts."
  type        = string
}

variable "name" {
  description = "Id of the workload identity pool; a deleted one's id stays taken for 30 days."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}[a-z0-9]$", var.name)) && !startswith(var.name, "gcp-")
    error_message = "name \"${var.name}\" must be 4 to 32 small letters, digits and hyphens, and must not begin with \"gcp-\" (Google keeps it)."
  }
}

variable "prefix" {
  description = "An account is PREFIX-KEY."
  type        = string
}

variable "repository" {
  description = "Numbers of the repository and of its owner: `gh api repos/OWNER/NAME --jq '.id, .owner.id'`."
  type        = object({ id = string, owner_id = string })

  validation {
    condition     = alltrue([for id in values(var.repository) : can(regex("^[0-9]+$", id))])
    error_message = "repository: id \"${var.repository.id}\" and owner_id \"${var.repository.owner_id}\" must be GitHub's numbers, not names: `gh api repos/OWNER/NAME --jq '.id, .owner.id'` prints them."
  }
}

variable "accounts" {
  description = "Key -> account of one job. Who may act as it: workflows on `refs` (refs/heads/main) or in `environments` (GitHub's, which can ask for a review)."
  type = map(object({
    description   = string
    refs          = optional(set(string), [])
    environments  = optional(set(string), [])
    project_roles = optional(set(string), [])
  }))

  validation {
    condition     = length(var.accounts) > 0 && alltrue([for account in values(var.accounts) : length(account.refs) + length(account.environments) > 0])
    error_message = "accounts: ${join(", ", [for key, account in var.accounts : key if length(account.refs) + length(account.environments) == 0])}: at least one account, and each needs refs or environments; without them every branch could use it."
  }

  validation {
    condition     = alltrue(flatten([for account in values(var.accounts) : [for ref in account.refs : can(regex("^refs/(heads|tags)/[A-Za-z0-9._/-]+$", ref))]]))
    error_message = "accounts: refs ${jsonencode(distinct(flatten([for account in values(var.accounts) : tolist(account.refs)])))} must be whole refs such as refs/heads/main; patterns and pull requests (refs/pull/…) are not taken."
  }

  validation {
    condition     = alltrue(flatten([for account in values(var.accounts) : [for one in account.environments : can(regex("^[A-Za-z0-9._-]+$", one))]]))
    error_message = "accounts: environments ${jsonencode(distinct(flatten([for account in values(var.accounts) : tolist(account.environments)])))} must be names of letters, digits, dots, hyphens and underscores."
  }

  validation {
    condition     = alltrue(flatten([for account in values(var.accounts) : [for role in account.project_roles : !contains(["roles/owner", "roles/editor"], role)]]))
    error_message = "accounts: roles/owner and roles/editor are everything; name the roles that the job uses."
  }
}
