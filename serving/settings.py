"""Every setting of a server, its default and its name in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.engine import EngineOptions
from serving.environment import from_environment, variable_names

_PLAIN_NAMES = {"host": "HOST", "port": "PORT"}


class Settings(BaseModel):
    """What an operator may set. A field's variable is SLIPWAY_<NAME>; HOST and PORT carry no prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; a container sets 0.0.0.0."""

    port: int = Field(8000, ge=1, le=65535)
    """Port to listen on."""

    allowed_hosts: str = Field("", pattern=r"^[A-Za-z0-9.:,\[\]_-]*$")
    """On a loopback address, further names that a request's Host may have beside localhost, separated by commas."""

    max_body_bytes: int = Field(1_048_576, ge=1024)
    """A larger request body is refused with 413."""

    max_output_tokens: int = Field(1024, ge=1)
    """Longest answer that a request may ask for."""

    default_output_tokens: int = Field(256, ge=1)
    """Longest answer when a request does not say."""

    max_running: int = Field(64, ge=1)
    """Answers that are computed together."""

    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a place; one more is refused with 429 and Retry-After."""

    stall_seconds: int = Field(60, ge=1)
    """A client that takes nothing of its reply for so long has left, and its place is another's."""

    kv_cache_gib: int = Field(1, ge=1)
    """Memory of the OpenVINO engine for keys and values, in GiB."""

    threads: int = Field(0, ge=0)
    """CPU threads of the engine; 0 lets it choose."""

    engine_url: str = Field("", pattern=r"^(|http://(127\.0\.0\.1|localhost|\[::1\]):[0-9]+)$")
    """Address of the vLLM in the same pod, for a release that names this engine. It has no authentication, so that it
    listens on the loopback address alone."""

    drain_seconds: int = Field(30, ge=0)
    """After SIGTERM, how long everything may take: lingering, and the answers that run to their end."""

    linger_seconds: int = Field(0, ge=0)
    """After SIGTERM, how long new requests are still answered while gateways notice that the server is leaving; it
    ends with drain_seconds at the latest."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """INFO writes one line per request; prompts and answers are never written."""

    def engine_options(self) -> EngineOptions:
        """The part that the engine reads."""
        return EngineOptions(self.max_running, self.kv_cache_gib, self.threads, self.engine_url)


def environment_names() -> dict[str, str]:
    """Field name -> environment variable."""
    return variable_names(Settings, "SLIPWAY_", _PLAIN_NAMES)


def read_settings(environ: Mapping[str, str], **flags: Any) -> Settings:
    """Settings from flags that are not None, then the environment, then the defaults. Raises SettingsError."""
    return from_environment(Settings, environment_names(), environ, **flags)
