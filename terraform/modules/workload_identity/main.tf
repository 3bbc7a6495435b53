# One Google account for each Kubernetes account, so that each has its own rights and its own lines in the audit log.
resource "google_service_account" "account" {
  for_each = var.accounts

  project      = var.project_id
  account_id   = "${var.prefix}-${each.key}"
  display_name = "${each.value.namespace}/${each.value.name}"
  description  = each.value.description
}

resource "google_service_account_iam_member" "kubernetes" {
  for_each = var.accounts

  service_account_id = google_service_account.account[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.workload_pool}[${each.value.namespace}/${each.value.name}]"
}

resource "google_project_iam_member" "role" {
  for_each = merge([for key, account in var.accounts : { for role in account.project_roles : "${key} ${role}" => { key = key, role = role } }]...)

  project = var.project_id
  role    = each.value.role
  member  = google_service_account.account[each.value.key].member
}
