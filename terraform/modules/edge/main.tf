# What stands before the gateway, which the manifests make (gke-l7-global-external-managed) and which names these:
# address and certificate map in its annotations, the security policy in its GCPBackendPolicy.
resource "google_compute_global_address" "address" {
  project = var.project_id
  name    = var.name
}

resource "google_certificate_manager_dns_authorization" "domain" {
  project = var.project_id
  name    = var.name
  domain  = var.hostname
}

resource "google_certificate_manager_certificate" "certificate" {
  project = var.project_id
  name    = var.name

  managed {
    domains            = [var.hostname]
    dns_authorizations = [google_certificate_manager_dns_authorization.domain.id]
  }
}

resource "google_certificate_manager_certificate_map" "map" {
  project = var.project_id
  name    = var.name
}

resource "google_certificate_manager_certificate_map_entry" "entry" {
  project      = var.project_id
  name         = var.name
  map          = google_certificate_manager_certificate_map.map.name
  hostname     = var.hostname
  certificates = [google_certificate_manager_certificate.certificate.id]
}

resource "google_compute_ssl_policy" "modern" {
  project         = var.project_id
  name            = var.name
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"
}

# Identity-Aware Proxy: who may pass, until users sign in otherwise.
resource "google_iap_web_iam_member" "user" {
  for_each = var.users

  project = var.project_id
  role    = "roles/iap.httpsResourceAccessor"
  member  = each.value
}
