"""What every workflow has to keep, as functions that give one line per mistake; empty when there is none.

Each looks at one workflow as YAML gives it. tests/workflows/test_rules.py plants a mistake for every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ci.pins import Pin, differences

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github/workflows"

Workflow = dict[str, Any]
Rule = Callable[[Workflow], Iterator[str]]

RUN = re.compile(r"(?:buildah unshare )?make (?P<target>[a-z][a-z-]*)(?: [A-Z]+=(?:[\w.-]+|\"[\w. -]+\"))*")
"""The only commands: one target of the Makefile, with plain values; inside buildah's namespace where it needs one."""

SIGNS_IN = ("google-github-actions/auth", "sigstore/cosign-installer")
"""Actions that use a job's own token."""

SCOPES = {"contents": {"read"}, "id-token": {"write"}, "packages": {"write"}, "pull-requests": {"read", "write"}}
"""All that any job here may ask for."""

FORKS_STAY_OUT = "github.event.pull_request.head.repo.full_name == github.repository"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes `on` for true."""


_LETTERS = {
    letter: [(tag, shape) for tag, shape in shapes if tag != "tag:yaml.org,2002:bool"]
    for letter, shapes in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers = _LETTERS
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false"), list("tf"))


def read(text: str) -> Workflow:
    return yaml.load(text, _Loader)


def all_workflows() -> dict[str, str]:
    """File name -> text."""
    return {path.name: path.read_text() for path in sorted(WORKFLOWS.glob("*.yml"))}


def jobs(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from workflow["jobs"].items()


def steps(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    """(job's name, step)."""
    for name, job in jobs(workflow):
        for step in job.get("steps", []):
            yield name, step


def action(step: dict[str, Any]) -> str:
    """OWNER/NAME of a step's action; "" of a command."""
    return "/".join(step.get("uses", "").partition("@")[0].split("/")[:2])


def before(workflow: Workflow, name: str) -> set[str]:
    """Every job that ends before this one begins."""
    needs = workflow["jobs"][name].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*(before(workflow, one) for one in direct))


def _writes(job: dict[str, Any], scope: str) -> bool:
    return (job.get("permissions") or {}).get(scope) == "write"


# --- commands --------------------------------------------------------------------------------------------------


def targets(makefile: str) -> set[str]:
    """What `make` can be asked for."""
    lines = re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.MULTILINE)
    return {name for line in lines for name in line.split()}


def runs_one_target(workflow: Workflow) -> Iterator[str]:
    known = targets((ROOT / "Makefile").read_text())
    for name, step in steps(workflow):
        command = step.get("run")
        if command is None:
            continue
        match = RUN.fullmatch(command)
        if not match:
            yield f"{name}: {command!r} is not one target of the Makefile with plain values"
        elif match["target"] not in known:
            yield f"{name}: the Makefile has no target {match['target']}"
        for key in ("shell", "working-directory"):
            if key in step:
                yield f"{name}: {key} changes what `{command}` is"


def no_expression_in_a_command(workflow: Workflow) -> Iterator[str]:
    """What an event brings reaches a program by its environment; in a command the shell would read it."""
    for name, step in steps(workflow):
        if "${{" in step.get("run", ""):
            yield f"{name}: an expression inside `run`"


def swallows_nothing(workflow: Workflow) -> Iterator[str]:
    for name, job in jobs(workflow):
        if any("continue-on-error" in one for one in [job, *job.get("steps", [])]):
            yield f"{name}: continue-on-error hides a failure"


# --- rights ----------------------------------------------------------------------------------------------------


def asks_for_little(workflow: Workflow) -> Iterator[str]:
    if workflow.get("permissions") != {}:
        yield "the workflow must begin with `permissions: {}`; each job asks for its own"
    for name, job in jobs(workflow):
        asked = job.get("permissions")
        if not isinstance(asked, dict) or not asked:
            yield f"{name}: asks for {asked!r}, not for named permissions"
            continue
        for scope, level in asked.items():
            if level not in SCOPES.get(scope, set()):
                yield f"{name}: {scope}: {level} is more than any job here needs"


def signs_in_where_it_may(workflow: Workflow) -> Iterator[str]:
    """A token is asked for by exactly the jobs that use it."""
    for name, job in jobs(workflow):
        uses = any(action(step) in SIGNS_IN for step in job.get("steps", []))
        if uses != _writes(job, "id-token"):
            yield f"{name}: {'signs in without' if uses else 'has and does not use'} id-token: write"


def forks_get_nothing(workflow: Workflow) -> Iterator[str]:
    """In a workflow of pull requests, whoever may sign in or write has refused forks before."""
    if "pull_request" not in workflow["on"]:
        return
    for name, job in jobs(workflow):
        if not any(_writes(job, scope) for scope in SCOPES):
            continue
        conditions = [workflow["jobs"][one].get("if", "") for one in (name, *before(workflow, name))]
        if not any(FORKS_STAY_OUT in " ".join(condition.split()) for condition in conditions):
            yield f"{name}: may write, and a fork's pull request may start it"


def cloud_asks_for_an_environment(workflow: Workflow) -> Iterator[str]:
    """Google's accounts are tied to GitHub's environments; only `release` is tied to main."""
    for name, job in jobs(workflow):
        asks = any(action(step) == "google-github-actions/auth" for step in job.get("steps", []))
        accounts = {
            step["env"].get("ACCOUNT")
            for step in job.get("steps", [])
            if step.get("run") == "make job-settings" and "env" in step
        }
        if asks and "environment" not in job and accounts != {"release"}:
            yield f"{name}: signs in to Google as {accounts} without a GitHub environment"


def triggers(workflow: Workflow) -> Iterator[str]:
    """These run with the repository's rights on what a stranger sent."""
    for trigger in ("pull_request_target", "workflow_run", "issue_comment", "issues", "discussion"):
        if trigger in workflow["on"]:
            yield f"is started by {trigger}"


def no_stored_secret(workflow: Workflow) -> Iterator[str]:
    """There is none: jobs sign in with a token of their own, and the repository keeps variables only."""
    text = yaml.safe_dump(workflow)
    for found in re.findall(r"\bsecrets\b[.\[\w'\]]*", text):
        yield f"reads {found}"


def scanners_have_no_rights(workflow: Workflow) -> Iterator[str]:
    """What tries or scans an image can sign in nowhere, and what pushes it waits for both."""
    for name, job in jobs(workflow):
        commands = {step.get("run", "") for step in job.get("steps", [])}
        has_rights = job.get("permissions") != {"contents": "read"} or "environment" in job
        if has_rights and commands & {"make release-scan", "make release-smoke"}:
            yield f"{name}: looks into an image and has rights"
        if "make release-push" in commands:
            done = {step.get("run", "") for one in before(workflow, name) for step in workflow["jobs"][one]["steps"]}
            for wanted in ("make release-smoke", "make release-scan", "buildah unshare make sbom"):
                if wanted not in done:
                    yield f"{name}: pushes before `{wanted}`"


def waits_to_be_set_up(workflow: Workflow) -> Iterator[str]:
    """Where nothing is set in the repository, what signs in somewhere begins nothing, unless a person's label asks."""
    if not any(_writes(job, "id-token") for _, job in jobs(workflow)):
        return
    for name, job in jobs(workflow):
        if "needs" not in job and not re.search(r"\bvars\.|\.label\.", job.get("if", "")):
            yield f"{name}: begins without a variable, and fails where none is set"


# --- order -----------------------------------------------------------------------------------------------------


def ends_in_time(workflow: Workflow) -> Iterator[str]:
    for name, job in jobs(workflow):
        minutes = job.get("timeout-minutes")
        if not (isinstance(minutes, int) and minutes <= 120) and "${{" not in str(minutes or ""):
            yield f"{name}: timeout-minutes is {minutes!r}, and must be at most 120"


def one_at_a_time(workflow: Workflow) -> Iterator[str]:
    concurrency = workflow.get("concurrency")
    if not isinstance(concurrency, dict) or not {"group", "cancel-in-progress"} <= concurrency.keys():
        yield "concurrency needs a group, and says whether the older run is cancelled"
    elif concurrency["cancel-in-progress"] is not False and any(_writes(job, "id-token") for _, job in jobs(workflow)):
        yield "a newer run would cancel one that is changing something"


def runs_on_a_known_machine(workflow: Workflow) -> Iterator[str]:
    for name, job in jobs(workflow):
        if not re.fullmatch(r"ubuntu-\d\d\.04", str(job.get("runs-on"))):
            yield f"{name}: runs on {job.get('runs-on')!r}, which is another machine tomorrow"


def keeps_no_credentials(workflow: Workflow) -> Iterator[str]:
    for name, step in steps(workflow):
        if action(step) == "actions/checkout" and step.get("with", {}).get("persist-credentials") is not False:
            yield f"{name}: checkout leaves its token in the folder"


def artifacts_end(workflow: Workflow) -> Iterator[str]:
    for name, step in steps(workflow):
        if action(step) == "actions/upload-artifact":
            given = step.get("with", {})
            if given.get("if-no-files-found") != "error" or "retention-days" not in given:
                yield f"{name}: an artifact that may be missing, or stays for ever"


def always_destroys(workflow: Workflow) -> Iterator[str]:
    """Whatever a job made is destroyed by another, also when the first failed, was cancelled or lost its machine."""
    made = {name for name, step in steps(workflow) if step.get("run") == "make preview-deploy"}
    for name in made:
        enders = [one for one, step in steps(workflow) if step.get("run") == "make preview-destroy"]
        good = [
            one
            for one in enders
            if name in before(workflow, one)
            and "always()" in workflow["jobs"][one].get("if", "")
            and f"needs.{name}.result != 'skipped'" in workflow["jobs"][one].get("if", "")
            and not workflow["jobs"][one]["steps"][-1].get("if")
        ]
        if not good:
            yield f"{name}: what it makes is not always destroyed"


RULES: tuple[Rule, ...] = (
    runs_one_target,
    no_expression_in_a_command,
    swallows_nothing,
    asks_for_little,
    signs_in_where_it_may,
    forks_get_nothing,
    cloud_asks_for_an_environment,
    triggers,
    no_stored_secret,
    scanners_have_no_rights,
    waits_to_be_set_up,
    ends_in_time,
    one_at_a_time,
    runs_on_a_known_machine,
    keeps_no_credentials,
    artifacts_end,
    always_destroys,
)


def pinned(text: str, pins: dict[str, Pin]) -> list[str]:
    """Of the text, since a comment tells the version: every action at the locked commit."""
    loose = [line.strip() for line in text.splitlines() if re.match(r"\s*(- )?uses:", line) and "@" not in line]
    return [*differences(text, pins), *(f"{line}: without a commit" for line in loose)]
