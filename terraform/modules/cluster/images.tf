# Which images may run. Google's own system images always may.
resource "google_binary_authorization_policy" "policy" {
  count = var.images.mode == "off" ? 0 : 1

  project                       = var.project_id
  description                   = "Slipway: images of our registry and of the named projects"
  global_policy_evaluation_mode = "ENABLE"

  dynamic "admission_whitelist_patterns" {
    for_each = var.images.allowed
    content {
      name_pattern = admission_whitelist_patterns.value
    }
  }

  default_admission_rule {
    evaluation_mode         = length(var.images.attestors) > 0 ? "REQUIRE_ATTESTATION" : "ALWAYS_DENY"
    enforcement_mode        = var.images.mode == "enforce" ? "ENFORCED_BLOCK_AND_AUDIT_LOG" : "DRYRUN_AUDIT_LOG_ONLY"
    require_attestations_by = var.images.attestors
  }
}
