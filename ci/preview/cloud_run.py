"""A preview on Cloud Run: terraform/environments/cloudrun with a state of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ci.commands import CiError, ask, run
from ci.terraform import Terraform

PREFIX = "preview-"
"""Begins the name of every preview: the sweeper touches nothing else."""

STATES = "slipway/cloudrun"
_NAME = re.compile(rf"{PREFIX}[a-z0-9-]{{0,17}}[a-z0-9]")


def name_of(key: str) -> str:
    """The service of a pull request's number or a run's. Raises CiError."""
    name = f"{PREFIX}{key}"
    if not _NAME.fullmatch(name):
        raise CiError(f"{name!r} must be at most 26 small letters, digits and hyphens")
    return name


@dataclass
class CloudRun:
    """One service."""

    name: str
    project: str
    region: str
    bucket: str
    image: str = ""
    release: str = ""
    """gs://…/DIGEST; "" when the image holds one."""

    account: str = ""

    def apply(self) -> None:
        terraform = self._terraform()
        terraform.init()
        terraform.apply()

    @contextmanager
    def reach(self) -> Iterator[str]:
        yield self._address()

    def told(self) -> str:
        address = self._address()
        return f"{address}\n\n```\ncurl {address}/health\n```"

    def destroy(self) -> None:
        """By its state; a service that no state knows, because the job died in between, by its name."""
        terraform = self._terraform()
        terraform.init()
        try:
            if terraform.holds():
                terraform.destroy()
        finally:
            # also when Terraform cannot, for a lock that a dead job has left
            if self.exists():
                self._delete()

    def exists(self) -> bool:
        return any(service["metadata"]["name"] == self.name for service in services(self.project, self.region))

    def _delete(self) -> None:
        where = [f"--project={self.project}", f"--region={self.region}", "--quiet"]
        run(["gcloud", "run", "services", "delete", self.name, *where])

    def _address(self) -> str:
        address = self._terraform().output("cloud_run_url")
        if not re.fullmatch(r"https://[a-z0-9.-]+", address):
            raise CiError(f"cloud_run_url is {address!r}, no address")
        return address

    def _terraform(self) -> Terraform:
        release = {"fetch": self.release} if self.release else {"baked": "/mnt/models"}
        variables: dict[str, Any] = {
            "project_id": self.project,
            "region": self.region,
            "service": self.name,
            # destroying asks for values too, and uses none of these
            "image": self.image or f"none@sha256:{'0' * 64}",
            "release": release,
            "service_account": self.account or "none",
            "public": True,
            "scaling": {"max": 1},
        }
        return Terraform("cloudrun", self.bucket, f"{STATES}/{self.name}", variables)


def services(project: str, region: str) -> list[dict[str, Any]]:
    """Cloud Run's services with Slipway's labels, as Google lists them (Knative's form)."""
    where = [f"--project={project}", f"--region={region}"]
    wanted = "--filter=metadata.labels.app=slipway AND metadata.labels.environment=demo"
    return json.loads(ask(["gcloud", "run", "services", "list", *where, wanted, "--format=json"]))
