# The machine type decides the GPUs, so nobody states them twice.
# https://cloud.google.com/compute/docs/accelerator-optimized-machines
locals {
  gpu_machines = {
    "g2-standard-4"  = { type = "nvidia-l4", count = 1, local_ssds = [0, 1] }
    "g2-standard-8"  = { type = "nvidia-l4", count = 1, local_ssds = [0, 1] }
    "g2-standard-12" = { type = "nvidia-l4", count = 1, local_ssds = [0, 1] }
    "g2-standard-16" = { type = "nvidia-l4", count = 1, local_ssds = [0, 1] }
    "g2-standard-24" = { type = "nvidia-l4", count = 2, local_ssds = [0, 2] }
    "g2-standard-32" = { type = "nvidia-l4", count = 1, local_ssds = [0, 1] }
    "g2-standard-48" = { type = "nvidia-l4", count = 4, local_ssds = [0, 4] }
    "g2-standard-96" = { type = "nvidia-l4", count = 8, local_ssds = [0, 8] }

    "a2-highgpu-1g" = { type = "nvidia-tesla-a100", count = 1, local_ssds = [0, 1, 2, 4, 8] }
    "a2-highgpu-2g" = { type = "nvidia-tesla-a100", count = 2, local_ssds = [0, 2, 4, 8] }
    "a2-highgpu-4g" = { type = "nvidia-tesla-a100", count = 4, local_ssds = [0, 4, 8] }
    "a2-highgpu-8g" = { type = "nvidia-tesla-a100", count = 8, local_ssds = [0, 8] }

    "a2-ultragpu-1g" = { type = "nvidia-a100-80gb", count = 1, local_ssds = [1] }
    "a2-ultragpu-2g" = { type = "nvidia-a100-80gb", count = 2, local_ssds = [2] }
    "a2-ultragpu-4g" = { type = "nvidia-a100-80gb", count = 4, local_ssds = [4] }
    "a2-ultragpu-8g" = { type = "nvidia-a100-80gb", count = 8, local_ssds = [8] }

    "a3-highgpu-1g" = { type = "nvidia-h100-80gb", count = 1, local_ssds = [2] }
    "a3-highgpu-2g" = { type = "nvidia-h100-80gb", count = 2, local_ssds = [4] }
    "a3-highgpu-4g" = { type = "nvidia-h100-80gb", count = 4, local_ssds = [8] }
    "a3-highgpu-8g" = { type = "nvidia-h100-80gb", count = 8, local_ssds = [16] }
  }

  # sold only as spot or by flex-start and queued provisioning
  never_on_demand = ["a3-highgpu-1g", "a3-highgpu-2g", "a3-highgpu-4g"]

  gpus = { for name, pool in var.pools : name => lookup(local.gpu_machines, pool.machine_type, null) }

  # GKE adds it itself to a pool with GPUs in most cases; the scheduler and the autoscaler from zero must know it in all
  gpu_taint = { for name, pool in var.pools : name =>
    local.gpus[name] == null ? [] : [{ key = "nvidia.com/gpu", value = "present", effect = "NO_SCHEDULE" }]
  }
}
