resource "google_compute_security_policy" "policy" {
  # checkov:skip=CKV_GCP_73: the first rule does it, by evaluatePreconfiguredWaf, which checkov does not know

  project     = var.project_id
  name        = var.name
  description = "Slipway: rate limits before the model servers"
  type        = "CLOUD_ARMOR"

  # CVE-2021-44228 and its kin are looked for in all that is logged
  rule {
    description = "Log4j"
    priority    = 100
    action      = "deny(403)"
    match {
      expr {
        expression = "evaluatePreconfiguredWaf('cve-canary', {'sensitivity': 1})"
      }
    }
  }

  # an answer costs seconds of a GPU: one address may ask for so many, then hears 429, then nothing for a while
  rule {
    description = "Rate limit for each address"
    priority    = 1000
    action      = "rate_based_ban"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    rate_limit_options {
      conform_action   = "allow"
      exceed_action    = "deny(429)"
      enforce_on_key   = "IP"
      ban_duration_sec = var.rate_limit.ban_seconds
      rate_limit_threshold {
        count        = var.rate_limit.requests
        interval_sec = var.rate_limit.seconds
      }
      ban_threshold {
        count        = var.rate_limit.requests * 10
        interval_sec = var.rate_limit.seconds
      }
    }
  }

  rule {
    description = "Default"
    priority    = 2147483647
    action      = "allow"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
  }
}
