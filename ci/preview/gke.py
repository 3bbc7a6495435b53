"""A preview on GKE: the whole platform in the environment `ephemeral`, where the smoke model is rolled out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import cluster, job
from ci.commands import ROOT, CiError, ask, program, run
from ci.terraform import Terraform

ENVIRONMENT = "ephemeral"
OVERLAY = ROOT / f"manifests/overlays/gke-{ENVIRONMENT}"
SERVICE = "energy-smoke"
"""rollout.service of pipelines/runs/smoke.yaml."""

NAMESPACE = "slipway-serving"
MADE_AT_GOOGLE = (
    ("httproutes,inferenceservices", NAMESPACE),
    ("gateways", "slipway-system"),
    ("persistentvolumeclaims", "slipway-pipelines"),
)
"""Kinds and namespaces, in the order in which they go (docs/deploy.md, step 9)."""


@dataclass
class Gke:
    """The cluster that SETTINGS describes."""

    project: str
    region: str
    bucket: str
    cluster: str
    images: str
    """NAME=VALUE lines for the overlay's images.env; "" where it is only destroyed."""

    variables: dict[str, Any]
    """What is the project's and not the repository's (SLIPWAY_TFVARS)."""

    def apply(self) -> None:
        terraform = self._terraform()
        terraform.init()
        terraform.apply()
        (OVERLAY / "platform.env").write_text(terraform.output("platform_env") + "\n")
        (OVERLAY / "images.env").write_text(self.images.rstrip() + "\n")
        with cluster.access() as environment:
            run(["make", "platform", f"ENV={ENVIRONMENT}"], env=environment)
            run_file = self._run_file(terraform.output("platform_env"))
            slipway = [str(ROOT / ".venv/bin/slipway"), "run", str(run_file), "--target", "kserve"]
            run(slipway, env=environment)

    @contextmanager
    def reach(self) -> Iterator[str]:
        with (
            cluster.access() as environment,
            cluster.forward(f"service/{self._service(environment)}", NAMESPACE, 80, "/health", environment) as address,
        ):
            yield address

    def told(self) -> str:
        credentials = f"gcloud container clusters get-credentials {self.cluster} --project {self.project}"
        with cluster.access() as environment:
            service = self._service(environment)
        forward = f"kubectl port-forward --namespace {NAMESPACE} service/{service} 8000:80"
        commands = f"{credentials} --location {self.region} --dns-endpoint\n{forward}"
        return f"in the cluster `{self.cluster}`:\n\n{job.fenced(commands)}"

    def destroy(self) -> None:
        """By its state; a cluster that no state knows, because the job died while it was made, by its name."""
        terraform = self._terraform()
        terraform.init()
        try:
            if terraform.holds():
                self._empty_if_it_answers()
                terraform.destroy()
        finally:
            # Terraform cannot destroy the network while such a cluster stands in it: the next try does
            if self.exists():
                self._delete()

    def changed(self) -> str:
        """When a state that still holds something was last written; "" where nothing is left."""
        return self._terraform().changed()

    def _empty_if_it_answers(self) -> None:
        try:
            self._empty()
        except CiError as error:  # a cluster that was never made, or no longer answers, has nothing to give back
            print(f"the cluster could not be emptied: {error}", file=sys.stderr)

    def _empty(self) -> None:
        """What the cluster itself made at Google: a load balancer would keep the network, a disk would cost."""
        with cluster.access() as environment:
            for kinds, namespace in MADE_AT_GOOGLE:
                flags = [f"--namespace={namespace}", "--all", "--ignore-not-found", "--timeout=10m"]
                run([program("kubectl"), "delete", kinds, *flags], env=environment)

    def _delete(self) -> None:
        where = [f"--project={self.project}", f"--location={self.region}"]
        # Google refuses while it is still being made
        running = f'--filter=status!=DONE AND targetLink~"/clusters/{self.cluster}(/|$)"'
        listed = ask(["gcloud", "container", "operations", "list", *where, running, "--format=value(name)"])
        for operation in listed.split():
            with suppress(CiError):  # one that failed is over too
                run(["gcloud", "container", "operations", "wait", operation, *where])
        run(["gcloud", "container", "clusters", "delete", self.cluster, *where, "--quiet"])

    def exists(self) -> bool:
        return any(one["name"] == self.cluster for one in clusters(self.project))

    def _service(self, environment: dict[str, str]) -> str:
        """The predictor of the release that gets the traffic."""
        command = [program("kubectl"), "get", "inferenceservice", f"--namespace={NAMESPACE}", "--output=json"]
        found = json.loads(ask([*command, f"--selector=slipway.dev/service={SERVICE}"], env=environment))["items"]
        return f"{found[0]['metadata']['name']}-predictor"

    def _run_file(self, platform: str) -> Path:
        """The smoke run, its releases in the environment's bucket."""
        values = dict(line.split("=", 1) for line in platform.splitlines() if "=" in line)
        path = ROOT / "build/preview/smoke.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / "pipelines/runs/smoke.yaml").read_text()
        path.write_text(
            f"{text.rstrip()}\n  kserve:\n    releases: {values['PLATFORM_RELEASES']}/preview\n    route_seconds: 300\n"
        )
        return path

    def _terraform(self) -> Terraform:
        # a job is one of GitHub's accounts, and what it pushed is pulled by their leave
        variables = {**self.variables, "github": True, "project_id": self.project, "region": self.region}
        return Terraform("gke", self.bucket, f"slipway/gke/{ENVIRONMENT}", variables, f"{ENVIRONMENT}.tfvars")


def clusters(project: str) -> list[dict[str, Any]]:
    """The ephemeral environment's, as Google lists them."""
    wanted = f"--filter=resourceLabels.app=slipway AND resourceLabels.environment={ENVIRONMENT}"
    return json.loads(ask(["gcloud", "container", "clusters", "list", f"--project={project}", wanted, "--format=json"]))
