# GitHub's jobs prove who they are with a token of GitHub's own: no key exists that could be stolen.
resource "google_iam_workload_identity_pool" "github" {
  project                   = var.project_id
  workload_identity_pool_id = var.name
  display_name              = "GitHub Actions"
}

resource "google_iam_workload_identity_pool_provider" "github" {
  # checkov:skip=CKV_GCP_125: the condition is put together from numbers of repository and owner; its tests read it

  project                            = var.project_id
  workload_identity_pool_id          = google_iam_workload_identity_pool.github.workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  display_name                       = "token.actions.githubusercontent.com"

  # Ids, since a name can be given up and taken by somebody else.
  attribute_condition = join(" && ", [
    "assertion.repository_id == '${var.repository.id}'",
    "assertion.repository_owner_id == '${var.repository.owner_id}'",
    "(${join(" || ", concat(
      [for ref in local.refs : "assertion.ref == '${ref}'"],
      [for environment in local.environments : "(has(assertion.environment) && assertion.environment == '${environment}')"],
    ))})",
  ])

  attribute_mapping = {
    "google.subject"        = "assertion.sub"
    "attribute.ref"         = "assertion.ref"
    "attribute.environment" = "has(assertion.environment) ? assertion.environment : ''"
  }

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

locals {
  refs         = distinct(flatten([for account in values(var.accounts) : tolist(account.refs)]))
  environments = distinct(flatten([for account in values(var.accounts) : tolist(account.environments)]))

  principals = merge(
    merge([for key, account in var.accounts : { for ref in account.refs : "${key} ref ${ref}" => { key = key, attribute = "ref/${ref}" } }]...),
    merge([for key, account in var.accounts : { for one in account.environments : "${key} environment ${one}" => { key = key, attribute = "environment/${one}" } }]...),
  )
}

resource "google_service_account" "job" {
  for_each = var.accounts

  project      = var.project_id
  account_id   = "${var.prefix}-${each.key}"
  display_name = "GitHub: ${each.key}"
  description  = each.value.description
}

resource "google_service_account_iam_member" "github" {
  for_each = local.principals

  service_account_id = google_service_account.job[each.value.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github.name}/attribute.${each.value.attribute}"
}

resource "google_project_iam_member" "role" {
  for_each = merge([for key, account in var.accounts : { for role in account.project_roles : "${key} ${role}" => { key = key, role = role } }]...)

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.job[each.value.key].member
}
