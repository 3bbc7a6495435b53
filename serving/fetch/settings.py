"""Every setting of a fetch, its default and its name in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from serving.environment import SettingsError, from_environment, variable_names

# Variables that others define: cloud libraries, and KServe, which sets the last three in a storage container.
_PLAIN_NAMES = {
    "gcs_emulator": "STORAGE_EMULATOR_HOST",
    "s3_endpoint": "AWS_ENDPOINT_URL",
    "s3_authorities": "AWS_CA_BUNDLE",
    "authorities_mount": "CA_BUNDLE_VOLUME_MOUNT_POINT",
}


class FetchSettings(BaseModel):
    """What an operator may set. A field's variable is SLIPWAY_FETCH_<NAME>; what others define keeps its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    streams: int = Field(16, ge=1, le=256)
    """Requests at the same time, over all files."""

    range_mib: int = Field(8, ge=1, le=1024)
    """A larger file is fetched in ranges of so many MiB, several at once; a restart repeats the interrupted ones."""

    retries: int = Field(8, ge=0)
    """How often one range is asked for again after 429, 5xx, a broken connection or a stall."""

    backoff_seconds: float = Field(0.5, ge=0, allow_inf_nan=False)
    """Wait before the first retry; it doubles each time, and up to half of it is added by chance."""

    backoff_cap_seconds: float = Field(30, ge=0, allow_inf_nan=False)
    """Longest wait before a retry, also where the server asks for a longer one (Retry-After)."""

    connect_seconds: float = Field(10, gt=0, allow_inf_nan=False)
    """Longest time for one connection to stand."""

    stall_seconds: float = Field(30, gt=0, allow_inf_nan=False)
    """No byte for so long ends an attempt."""

    progress_seconds: float = Field(5, gt=0, allow_inf_nan=False)
    """Between two progress lines."""

    gcs_emulator: str = ""
    """Address of a Cloud Storage emulator; requests to it are not signed."""

    s3_endpoint: str = ""
    """Address of an S3-like store other than AWS."""

    s3_authorities: str = ""
    """PEM file of further certificate authorities, for s3:// alone."""

    authorities_mount: str = ""
    """Folder whose cabundle.crt holds further certificate authorities (KServe's caBundleConfigMapName)."""

    @property
    def range_bytes(self) -> int:
        """range_mib in bytes."""
        return self.range_mib * 2**20

    def authorities(self, scheme: str) -> str | None:
        """Further certificate authorities as PEM text, beside those of the system; None when there are none.

        Raises SettingsError when the file that a variable points to cannot be read.
        """
        if scheme == "s3" and self.s3_authorities:
            variable, path = _PLAIN_NAMES["s3_authorities"], Path(self.s3_authorities)
        elif self.authorities_mount:
            variable, path = _PLAIN_NAMES["authorities_mount"], Path(self.authorities_mount) / "cabundle.crt"
        else:
            return None
        try:
            return path.read_text()
        except OSError as error:
            raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from error


def environment_names() -> dict[str, str]:
    """Field name -> environment variable."""
    return variable_names(FetchSettings, "SLIPWAY_FETCH_", _PLAIN_NAMES)


def read_settings(environ: Mapping[str, str]) -> FetchSettings:
    """Settings from the environment, then the defaults. Raises SettingsError."""
    return from_environment(FetchSettings, environment_names(), environ)
