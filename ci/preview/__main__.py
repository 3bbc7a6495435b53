"""python -m ci.preview push|deploy|wait|destroy|run|sweep: each is one job's step in .github/workflows/preview.yml."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ci import job, layout, release
from ci.commands import CiError, run
from ci.github import Repository
from ci.preview import cloud_run, gke, preview, sweep
from ci.registry import Registry

END = "preview-end"
"""The label that ends a preview before its time."""

IMAGE = "serving"


@dataclass
class Page:
    """Tells the run's page, and the pull request where there is one."""

    number: int | None

    def live(self, told: str, said: str) -> None:
        minutes = preview.LIVES_SECONDS // 60
        end = f" The label `{END}` ends it earlier." if self.number else ""
        asked = f"Asked about heat pumps, it says:\n\n{job.fenced(said)}"
        self._tell(f"### Preview\n\n{told}\n\nIt lives {minutes} minutes.{end} {asked}")

    def gone(self, reason: str) -> None:
        """Its labels go too: only one that is set anew starts another, and END would end that at once."""
        self._tell(f"### Preview\n\ngone: {reason}")
        if self.number is not None:
            started_by = "preview-gke" if os.environ.get("TARGET") == "gke" else "preview"
            Repository.from_environment().unlabel(self.number, started_by, END)

    def unwanted(self) -> str:
        if self.number is None:
            return ""
        is_open, labels = Repository.from_environment().pull_request(self.number)
        if not is_open:
            return "the pull request was closed"
        return f"somebody set the label {END}" if END in labels else ""

    def _tell(self, text: str) -> None:
        job.summary(text)
        if self.number is not None:
            Repository.from_environment().comment(self.number, "preview", text)


def page() -> Page:
    number = os.environ.get("PULL_REQUEST", "")
    if number and not number.isdigit():
        raise CiError(f"PULL_REQUEST {number!r} is no number")
    return Page(int(number) if number else None)


def target() -> preview.Target:
    """The preview of TARGET, which SETTINGS, KEY, IMAGE_BY_DIGEST and RELEASE describe. Raises CiError."""
    where = os.environ.get("TARGET", "cloudrun")
    if where == "gke":
        return _gke()
    if where != "cloudrun":
        raise CiError(f"TARGET {where!r} must be cloudrun or gke")
    return _cloud_run(cloud_run.name_of(job.value("KEY", "pr-NUMBER or run-NUMBER")))


def _cloud_run(name: str) -> cloud_run.CloudRun:
    return cloud_run.CloudRun(
        name,
        project=job.setting("project_id"),
        region=job.setting("region"),
        bucket=job.setting("state_bucket"),
        image=os.environ.get("IMAGE_BY_DIGEST", ""),
        release=os.environ.get("RELEASE", ""),
        account=job.setting("demo_service_account"),
    )


def _gke(_: str = "") -> gke.Gke:
    names = {"project": "project_id", "region": "region", "bucket": "state_bucket", "cluster": "cluster"}
    extra: dict[str, Any] = json.loads(os.environ.get("SLIPWAY_TFVARS") or "{}")
    return gke.Gke(**{key: job.setting(name) for key, name in names.items()}, images=_images(), variables=extra)


def _images() -> str:
    """The overlay's images: those of the newest release, the server's from this pull request."""
    lines = dict(line.split("=", 1) for line in os.environ.get("RELEASED", "").splitlines() if "=" in line)
    if image := os.environ.get("IMAGE_BY_DIGEST"):
        lines["SLIPWAY_IMAGE_SERVING"] = image
    return "\n".join(f"{name}={value}" for name, value in sorted(lines.items()))


def push() -> None:
    """The server's image into the repository of previews, whose images are deleted after a day."""
    expected = {IMAGE: json.loads(job.value("DIGESTS", "the output `digests` of the job `build`"))[IMAGE]}
    layout.check(release.LAYOUT, expected)
    registry = Registry.of(job.setting("preview_registry"))
    address = f"{registry.prefix}/slipway-serving"
    with tempfile.TemporaryDirectory(prefix="slipway-login-") as folder:
        authfile = registry.log_in(Path(folder))
        tag = cloud_run.name_of(job.value("KEY", "pr-NUMBER or run-NUMBER"))
        command = ["skopeo", "copy", "--preserve-digests", f"--authfile={authfile}", "--retry-times=3"]
        run(
            [
                *command,
                *registry.plain("--dest-tls-verify=false"),
                f"oci:{release.LAYOUT}:{IMAGE}",
                f"docker://{address}:{tag}",
            ]
        )
    job.output("image", f"{address}@{expected[IMAGE]}")


def deploy() -> None:
    made = target()
    if isinstance(made, cloud_run.CloudRun) and not made.image:
        raise CiError("IMAGE_BY_DIGEST is not set: the output `image` of `make preview-push`")
    if isinstance(made, cloud_run.CloudRun) and "/slipway-serving@" in made.image and not made.release:
        raise CiError(
            "RELEASE is not set and the image holds none: set SLIPWAY_PREVIEW_RELEASE to gs://BUCKET/FOLDER/DIGEST"
        )
    preview.deploy(made, page(), lambda address: preview.try_live(address, preview.Clock()), preview.Clock())


def wait() -> None:
    job.summary(f"### Preview\n\nends: {preview.wait(page(), preview.Clock())}")


def destroy() -> None:
    preview.destroy(target(), preview.Clock())
    page().gone("destroyed")


def whole() -> None:
    reason = preview.run(target(), page(), lambda address: preview.try_live(address, preview.Clock()), preview.Clock())
    print(reason)


def swept() -> None:
    now, clock = datetime.now(UTC), preview.Clock()
    if os.environ.get("TARGET", "cloudrun") == "gke":
        left = sweep.left_clusters(gke.clusters(job.setting("project_id")), now)
        left = left or sweep.left_state(_gke().changed(), now)
        done = sweep.sweep(left, _gke, clock)
    else:
        left = sweep.left_services(cloud_run.services(job.setting("project_id"), job.setting("region")), now)
        done = sweep.sweep(left, _cloud_run, clock)
    job.summary("### Swept\n\n" + ("\n".join(f"- {line}" for line in done) or "nothing was left"))


COMMANDS = {"push": push, "deploy": deploy, "wait": wait, "destroy": destroy, "run": whole, "sweep": swept}


def main(arguments: list[str]) -> int:
    return job.carry_out("ci.preview", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
