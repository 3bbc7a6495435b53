output "urls" {
  description = "Key -> gs:// address of the bucket."
  value       = { for key, bucket in google_storage_bucket.bucket : key => "gs://${bucket.name}" }
}
