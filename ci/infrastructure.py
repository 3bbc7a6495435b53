"""Terraform by workflow: a plan that people read, and that very plan applied.

    python -m ci.infrastructure plan      plans ENV; the plan to the state's bucket, its text to build/plan/comment.md
    python -m ci.infrastructure comment   that text as a comment of pull request PULL_REQUEST
    python -m ci.infrastructure apply     applies that plan and no other, after the review that the environment asks for

The plan file holds the whole state, so it goes through the state's bucket and not through GitHub's artifacts, which in
a public repository everybody may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from typing import Any

from ci import job
from ci.commands import ROOT, CiError, run
from ci.github import Repository
from ci.terraform import Terraform

PLACE = ROOT / "build/plan"
ENVIRONMENTS = ("ephemeral", "dev", "prod")
_LONGEST = 55_000
"""Characters of a plan's text in a comment."""

_HOLDS_DATA = {
    "google_artifact_registry_repository",
    "google_container_cluster",
    "google_sql_database_instance",
    "google_storage_bucket",
}


def environment() -> str:
    name = job.value("ENV", f"one of {', '.join(ENVIRONMENTS)}")
    if name not in ENVIRONMENTS:
        raise CiError(f"ENV {name!r} must be one of {', '.join(ENVIRONMENTS)}")
    return name


def terraform(name: str) -> Terraform:
    """environments/gke with one environment's values and state; what is the project's own comes as SLIPWAY_TFVARS."""
    own: dict[str, Any] = json.loads(os.environ.get("SLIPWAY_TFVARS") or "{}")
    variables = {**own, "project_id": job.setting("project_id"), "region": job.setting("region")}
    return Terraform("gke", job.setting("state_bucket"), f"slipway/gke/{name}", variables, f"{name}.tfvars")


def plan() -> None:
    """Raises CiError."""
    name = environment()
    one = terraform(name)
    PLACE.mkdir(parents=True, exist_ok=True)
    written = PLACE / "plan.tfplan"
    one.init()
    changes = one.plan(written)
    text = describe(name, one.show_json(written), one.show(written))
    (PLACE / "comment.md").write_text(text)
    job.summary(text)
    digest = hashlib.sha256(written.read_bytes()).hexdigest() if changes else ""
    if changes and os.environ.get("KEEP") == "true":
        run(["gcloud", "storage", "cp", str(written), _kept(one, digest)])
    written.unlink()
    (PLACE / "plan.sha256").write_text(digest)


def _kept(one: Terraform, digest: str) -> str:
    return f"gs://{one.bucket}/slipway/plans/{digest}.tfplan"


def describe(name: str, planned: dict[str, Any], text: str) -> str:
    """A plan as Markdown: how much of what, what would be lost, and Terraform's own words."""
    counted: Counter[str] = Counter()
    lost = []
    for one in planned.get("resource_changes", []):
        actions = one["change"]["actions"]
        counted.update(action for action in actions if action in ("create", "update", "delete"))
        if "delete" in actions and one["type"] in _HOLDS_DATA:
            lost.append(one["address"])
    numbers = ", ".join(f"{counted[action]} to {action}" for action in ("create", "update", "delete"))
    lines = [f"### Terraform: {name}", "", numbers if counted else "nothing to change"]
    lines += ["", "**Would be destroyed with what it holds:** " + ", ".join(f"`{one}`" for one in lost)] if lost else []
    shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "\n… the rest stands in the job's log"
    lines += ["", "<details><summary>plan</summary>", "", job.fenced(shown), "", "</details>"] if counted else []
    return "\n".join(lines) + "\n"


def comment() -> None:
    """Raises CiError."""
    number = job.value("PULL_REQUEST", "the pull request's number")
    if not number.isdigit():
        raise CiError(f"PULL_REQUEST {number!r} is no number")
    name = environment()
    text = (PLACE / "comment.md").read_text()
    Repository.from_environment().comment(int(number), f"terraform {name}", text)


def apply() -> None:
    """Raises CiError, also when the plan is not the one that was reviewed."""
    try:
        digest = (PLACE / "plan.sha256").read_text().strip()
    except OSError as error:
        raise CiError(f"{PLACE}/plan.sha256 is missing: the job `plan` writes it") from error
    if not digest:
        job.summary("### Applied\n\nnothing: the plan changes nothing")
        return
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise CiError(f"plan.sha256 holds {digest!r}, no sha256")
    one = terraform(environment())
    written = PLACE / "plan.tfplan"
    run(["gcloud", "storage", "cp", _kept(one, digest), str(written)])
    if hashlib.sha256(written.read_bytes()).hexdigest() != digest:
        raise CiError("the plan in the bucket is not the one that was reviewed; plan again")
    one.init()
    try:
        one.apply_plan(written)
    finally:
        written.unlink()
    run(["gcloud", "storage", "rm", _kept(one, digest)])
    job.summary(f"### Applied\n\nplan `{digest[:12]}`")


COMMANDS = {"plan": plan, "comment": comment, "apply": apply}


def main(arguments: list[str]) -> int:
    return job.carry_out("ci.infrastructure", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
