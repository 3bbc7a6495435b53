output "edge" {
  description = "What the gateway's manifests name: address, certificate map, TLS policy, security policy; and the DNS records to write."
  value = {
    hostname        = var.hostname
    address         = google_compute_global_address.address.name
    ip              = google_compute_global_address.address.address
    certificate_map = google_certificate_manager_certificate_map.map.name
    ssl_policy      = google_compute_ssl_policy.modern.name
    security_policy = google_compute_security_policy.policy.name
  }
}

output "certificate_record" {
  description = "The CNAME that proves the domain to Google: name, type and data."
  value       = google_certificate_manager_dns_authorization.domain.dns_resource_record
}
