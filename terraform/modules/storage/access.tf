# "creator" adds objects and can neither overwrite nor delete any: releases are immutable.
locals {
  roles = {
    reader  = "roles/storage.objectViewer"
    creator = "roles/storage.objectCreator"
    writer  = "roles/storage.objectUser"
  }

  grants = merge([for bucket, one in var.buckets : {
    for name, grant in one.access : "${bucket} ${name}" => { bucket = bucket, role = local.roles[grant.role], member = grant.member }
  }]...)
}

resource "google_storage_bucket_iam_member" "access" {
  for_each = local.grants

  bucket = google_storage_bucket.bucket[each.value.bucket].name
  role   = each.value.role
  member = each.value.member
}
