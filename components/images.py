"""The container images of the steps, read from the environment when the pipeline is compiled.

SLIPWAY_REGISTRY says where they are; SLIPWAY_IMAGE_CPU and SLIPWAY_IMAGE_CUDA name each whole, by digest.
"""

import os
from importlib.metadata import version

_PREFIX = os.environ.get("SLIPWAY_REGISTRY", "").rstrip("/")
_NAME = f"{_PREFIX}/slipway-python" if _PREFIX else "slipway-python"

CPU = os.environ.get("SLIPWAY_IMAGE_CPU") or f"{_NAME}:{version('slipway')}-cpu"
GPU = os.environ.get("SLIPWAY_IMAGE_CUDA") or f"{_NAME}:{version('slipway')}-cuda"
