"""The registry that a release goes to: Artifact Registry or ghcr.io."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ci import job
from ci.commands import CiError, ask


@dataclass(frozen=True)
class Registry:
    """SLIPWAY_REGISTRY: what stands before the images' names."""

    prefix: str

    @classmethod
    def from_environment(cls) -> Registry:
        """Raises CiError."""
        told = "what stands before the images' names, such as us-central1-docker.pkg.dev/my-project/slipway-dev"
        return cls.of(job.value("SLIPWAY_REGISTRY", told))

    @classmethod
    def of(cls, prefix: str) -> Registry:
        """Raises CiError for what is no registry, or would be read as an option."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)+", prefix):
            raise CiError(f"registry {prefix!r} must be HOST/PATH in small letters, without https:// and a tag")
        return cls(prefix)

    @property
    def host(self) -> str:
        return self.prefix.partition("/")[0]

    @property
    def user(self) -> str:
        """Who a token is given in the name of: Artifact Registry takes one name for all access tokens."""
        return (
            "oauth2accesstoken" if self.host.endswith("-docker.pkg.dev") else os.environ.get("GITHUB_ACTOR", "slipway")
        )

    def log_in(self, folder: Path) -> Path:
        """Write the token of REGISTRY_TOKEN to a file that skopeo and cosign read, and nobody else."""
        token = job.value("REGISTRY_TOKEN", "the registry's access token")
        job.mask(token)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        secret = base64.b64encode(f"{self.user}:{token}".encode()).decode()
        job.mask(secret)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"auths": {self.host: {"auth": secret}}}, file)
        return path

    def digest(self, image: str, authfile: Path) -> str:
        """What a tag names today; "" when there is none."""
        try:
            return ask(
                [
                    "skopeo",
                    "inspect",
                    f"--authfile={authfile}",
                    *self.plain(),
                    "--format={{.Digest}}",
                    f"docker://{image}",
                ]
            ).strip()
        except CiError as error:
            if re.search(r"manifest unknown|not found|NAME_UNKNOWN|name unknown", str(error), re.IGNORECASE):
                return ""
            raise

    def plain(self, flag: str = "--tls-verify=false") -> list[str]:
        """For a registry on this machine, which has no certificate."""
        return [flag] if re.match(r"(localhost|127\.0\.0\.1)(:|$)", self.host) else []
