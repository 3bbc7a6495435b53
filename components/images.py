"""The container images of the steps. SLIPWAY_REGISTRY, read when the pipeline is compiled, says where they are."""

import os
from importlib.metadata import version

_PREFIX = os.environ.get("SLIPWAY_REGISTRY", "").rstrip("/")
_NAME = f"{_PREFIX}/slipway-python" if _PREFIX else "slipway-python"

CPU = f"{_NAME}:{version('slipway')}-cpu"
GPU = f"{_NAME}:{version('slipway')}-cuda"
