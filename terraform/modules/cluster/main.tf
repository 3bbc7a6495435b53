resource "google_container_cluster" "cluster" {
  # checkov:skip=CKV_GCP_12: Dataplane V2 enforces NetworkPolicies itself; the older switch is refused beside it
  # checkov:skip=CKV_GCP_21: labels come in var.labels, which checkov does not follow
  # checkov:skip=CKV_GCP_65: groups in RBAC need a Google Workspace domain, which not every project has; rights are IAM's and the manifests'

  project             = var.project_id
  name                = var.name
  description         = "Slipway: training, evaluation and serving"
  location            = var.region # regional: three control planes
  node_locations      = var.zones
  deletion_protection = var.deletion_protection
  resource_labels     = var.labels

  # the pools are those of the module node_pools; Google wants one to begin with
  remove_default_node_pool = true
  initial_node_count       = 1
  node_config {
    service_account = google_service_account.node.email
    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }
    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  # --- network: private nodes, reached through the DNS endpoint with IAM ---
  network           = var.network.id
  subnetwork        = var.network.subnet
  networking_mode   = "VPC_NATIVE"
  datapath_provider = "ADVANCED_DATAPATH" # Dataplane V2: it enforces NetworkPolicies

  enable_intranode_visibility = true

  ip_allocation_policy {
    cluster_secondary_range_name  = var.network.pods_range
    services_secondary_range_name = var.network.services_range
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = !var.control_plane.public
  }

  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = var.control_plane.dns # every call needs IAM's container.clusters.connect
    }
    ip_endpoints_config {
      enabled = true # nodes and webhooks; public only where var.control_plane.public says so
    }
  }

  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled = false
    dynamic "cidr_blocks" {
      for_each = var.control_plane.authorized_networks
      content {
        display_name = cidr_blocks.key
        cidr_block   = cidr_blocks.value
      }
    }
  }

  service_external_ips_config {
    enabled = false
  }

  # --- security ---
  enable_shielded_nodes = true
  enable_legacy_abac    = false

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  binary_authorization {
    evaluation_mode = var.images.mode == "off" ? "DISABLED" : "PROJECT_SINGLETON_POLICY_ENFORCE"
  }

  security_posture_config {
    mode               = "BASIC"
    vulnerability_mode = "VULNERABILITY_DISABLED" # GKE gave it up; Artifact Registry scans
  }

  # --- what is seen ---
  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER"]
  }

  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER", "STORAGE", "POD", "DEPLOYMENT", "STATEFULSET", "DAEMONSET", "HPA", "CADVISOR", "KUBELET", "DCGM"]

    managed_prometheus {
      enabled = true
    }

    advanced_datapath_observability_config {
      enable_metrics = true
      enable_relay   = false
    }
  }

  # --- what it offers, and when it changes ---
  release_channel {
    channel = var.release_channel
  }

  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  addons_config {
    gcs_fuse_csi_driver_config {
      enabled = true
    }
    gcp_filestore_csi_driver_config {
      enabled = true # the steps' shared store is ReadWriteMany
    }
    gce_persistent_disk_csi_driver_config {
      enabled = true
    }
    http_load_balancing {
      disabled = false # GKE Gateway needs it
    }
  }

  secret_manager_config {
    enabled = true
  }

  # a busy node is worth more than a spare one; autoscaling itself is each pool's
  cluster_autoscaling {
    enabled             = false
    autoscaling_profile = "OPTIMIZE_UTILIZATION"
  }

  cost_management_config {
    enabled = true
  }

  maintenance_policy {
    recurring_window {
      start_time = var.maintenance.start
      end_time   = var.maintenance.end
      recurrence = var.maintenance.recurrence
    }

    dynamic "maintenance_exclusion" {
      for_each = var.maintenance.exclusions
      content {
        exclusion_name = maintenance_exclusion.key
        start_time     = maintenance_exclusion.value.start
        end_time       = maintenance_exclusion.value.end
        exclusion_options {
          scope = "NO_MINOR_UPGRADES"
        }
      }
    }
  }

  lifecycle {
    ignore_changes = [node_config] # of the pool that was removed
  }
}
