"""The recurring runs that stand as data."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from components import images
from components.step_config import InputError
from manifests import recurring
from pipelines import run_config
from pipelines.schedule import read_cron
from pipelines.submit import find_problems
from tests.manifests.test_gke import EXAMPLE, pools

FILES = sorted(recurring.SCHEDULES.glob("*.yaml"))


@pytest.fixture
def schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of manifests/schedules."""
    monkeypatch.setattr(recurring, "SCHEDULES", tmp_path / "schedules")
    (tmp_path / "schedules").mkdir()
    return tmp_path / "schedules"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_can_be_submitted_to_each_of_its_environments(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "CPU", f"{EXAMPLE['SLIPWAY_REGISTRY']}/slipway-python:1-cpu")
    for environment in recurring.read(path).environments:
        planned = dict(recurring.plan(environment, tmp_path / environment, EXAMPLE))
        written, name, _, cron = planned[path.stem][-4:]
        config = run_config.load(written)

        assert (name, read_cron(cron)) == (path.stem, "0 " + cron)
        assert list(find_problems(config, config.placement, "kubeflow")) == []
        assert config.rollout.kserve.releases.startswith(EXAMPLE["PLATFORM_RELEASES"])
        assert config.rollout.kserve.hostname == EXAMPLE["PLATFORM_EDGE_HOSTNAME"]
        pool = config.rollout.kserve.node_selector.get("cloud.google.com/gke-nodepool")
        assert pool is None or pools(environment)[pool]["max_nodes"] >= 2 * config.rollout.kserve.replicas


def test_two_of_an_environment_serve_at_two_addresses() -> None:
    """A gateway's route takes a whole host name."""
    for environment in recurring.ENVIRONMENTS:
        there = [path.stem for path in FILES if environment in recurring.read(path).environments]
        assert len(there) <= 1, f"{environment}: {there}; give each a host name of its own"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("environments: [dev]\ncron: '99 3 * * 1'\nrun: laptop", "99"),
        ("environments: [stage]\ncron: '0 3 * * 1'\nrun: laptop", "environments"),
        ("environments: []\ncron: '0 3 * * 1'\nrun: laptop", "environments"),
        ("environments: [dev]\ncron: '0 3 * * 1'\nrun: laptop\nretries: 3", "retries"),
        ("environments: [dev]\ncron: '0 3 * * 1'\nrun: nowhere", "nowhere"),
        (
            "environments: [dev]\ncron: '0 3 * * 1'\nrun: laptop\nchanges: {run: {store: '${PLATFORM_STORE}'}}",
            "PLATFORM_STORE",
        ),
        ("environments: [dev]\ncron: '0 3 * * 1'\nrun: laptop\nchanges: {training: {rnak: 8}}", "rnak"),
        ("environments: [", "not YAML"),
    ],
)
def test_a_mistake_is_refused_by_name(schedules: Path, tmp_path: Path, text: str, words: str) -> None:
    (schedules / "wrong.yaml").write_text(text)

    with pytest.raises(InputError, match=words):
        list(recurring.plan("dev", tmp_path / "out", EXAMPLE))


def test_another_environments_schedules_are_left_alone(schedules: Path, tmp_path: Path) -> None:
    (schedules / "one.yaml").write_text("environments: [prod]\ncron: '0 3 * * 1'\nrun: laptop")

    assert list(recurring.plan("dev", tmp_path / "out", EXAMPLE)) == []
    assert not (tmp_path / "out").exists()


def test_changes_lie_over_the_run_file(schedules: Path, tmp_path: Path) -> None:
    (schedules / "one.yaml").write_text(
        "environments: [dev]\ncron: '0 3 * * 1'\nrun: smoke\n"
        "changes: {data: {sources: ['${PLATFORM_DATA}/a']}, run: {store: /s}}"
    )
    ((_, command),) = recurring.plan("dev", tmp_path / "out", EXAMPLE)
    config, smoke = run_config.load(command[-4]), run_config.load("smoke")

    assert config.data.sources == [f"{EXAMPLE['PLATFORM_DATA']}/a"]
    assert config.data.test_share == smoke.data.test_share
    assert (config.run.store, config.run.name) == ("/s", smoke.run.name)
    assert config.training == smoke.training


def test_without_terraforms_file_it_says_where_that_comes_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurring, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["recurring", "dev"])

    assert recurring.main() == 1
    assert "platform.env.example" in capsys.readouterr().err


def test_applying_runs_the_command_line_and_names_what_is_left(
    schedules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program in the place of `slipway` writes down how it was called."""
    (schedules / "one.yaml").write_text("environments: [dev]\ncron: '0 3 * * 1'\nrun: smoke")
    place = tmp_path / "manifests/overlays/gke-dev"
    place.mkdir(parents=True)
    (place / "platform.env").write_text("PLATFORM_DATA=gs://b\n")
    program = tmp_path / "slipway"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        '[ "$2" != list ] || echo \'[{"name": "old"}, {"name": "one"}]\'\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(recurring, "ROOT", tmp_path)
    monkeypatch.setattr(recurring, "SLIPWAY", (str(program),))
    monkeypatch.setattr("sys.argv", ["recurring", "dev", "--apply"])

    assert recurring.main() == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"schedule {tmp_path}/build/schedules/dev/one.yaml one --cron 0 3 * * 1", "schedule list --json"]
    printed = capsys.readouterr().out
    assert "one.yaml one --cron '0 3 * * 1'" in printed and "old: no file of manifests/schedules has it" in printed


def test_the_command_line_is_this_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PATH holds."""
    monkeypatch.setenv("PATH", "")
    asked = subprocess.run([*recurring.SLIPWAY, "schedule", "list", "--help"], capture_output=True, text=True)
    assert asked.returncode == 0 and "schedule" in asked.stdout


def test_a_written_run_file_can_be_bundled(schedules: Path, tmp_path: Path) -> None:
    """docs/deploy.md copies one to pipelines/runs/, whose files begin with what they are for."""
    (schedules / "one.yaml").write_text("environments: [dev]\ncron: '0 3 * * 1'\nrun: smoke")
    ((_, command),) = recurring.plan("dev", tmp_path / "out", EXAMPLE)
    assert re.match(r"# [A-Z].{20,}[.:]\n", Path(command[-4]).read_text())
