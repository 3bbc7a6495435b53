"""The lock is written from tags of real git repositories, on this machine instead of GitHub."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ci import pins
from ci.commands import CiError
from ci.pins import Pin
from tests.workflows import tools
from tests.workflows.workspace import Workspace

OLD, NEW = "v1.2.0", "v1.10.0"


def git(folder: Path, *words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    return subprocess.run(
        [tools.ordinary("git"), *author, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder: Path) -> dict[str, str]:
    """An action with two releases, one annotated; release -> commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    commits = {}
    for version in (OLD, NEW):
        git(folder, "commit", "--allow-empty", "--quiet", "--message", version)
        git(folder, "tag", "--annotate", version, "--message", version) if version == NEW else git(
            folder, "tag", version
        )
        commits[version] = git(folder, "rev-parse", "HEAD")
    git(folder, "tag", "v2")
    git(folder, "tag", "v2.0.0-rc1")
    return commits


@pytest.fixture
def github(tmp_path: Path, workspace: Workspace) -> dict[str, str]:
    """somebody/action, and a workspace whose one workflow uses it at its major version."""
    commits = repository(tmp_path / "somebody/action")
    (workspace.folder / ".github/workflows").mkdir(parents=True)
    workflow(workspace).write_text("steps:\n  - uses: somebody/action/sub@v1 # some words\n")
    workspace.github |= {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{tmp_path}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }
    return commits


def workflow(workspace: Workspace) -> Path:
    return workspace.folder / ".github/workflows/one.yml"


def lock(workspace: Workspace) -> dict:
    return json.loads((workspace.folder / ".github/actions.lock").read_text())


def test_an_action_is_pinned_to_the_commit_of_its_newest_release(workspace: Workspace, github: dict[str, str]):
    assert workspace.make("pin-actions").returncode == 0
    assert lock(workspace)["somebody/action"]["sha"] == github[NEW], "of an annotated tag the commit, not the tag"
    assert workflow(workspace).read_text() == f"steps:\n  - uses: somebody/action/sub@{github[NEW]} # {NEW}\n"
    assert workspace.make("pin-actions", "ARGS=--offline").returncode == 0


def test_a_pin_stays_until_it_is_moved(workspace: Workspace, github: dict[str, str]):
    old = {"somebody/action": Pin(OLD, github[OLD], "here")}
    (workspace.folder / ".github/actions.lock").write_text(pins.write(old))
    assert workspace.make("pin-actions").returncode == 0
    assert lock(workspace)["somebody/action"]["version"] == OLD
    assert workspace.make("pin-actions", "ARGS=--newest").returncode == 0
    assert lock(workspace)["somebody/action"]["version"] == NEW


@pytest.mark.parametrize("word", ["ARGS=", "ARGS=--newest"])
def test_a_tag_that_was_moved_is_refused(workspace: Workspace, github: dict[str, str], tmp_path: Path, word: str):
    assert workspace.make("pin-actions").returncode == 0
    before = workflow(workspace).read_text()
    git(tmp_path / "somebody/action", "commit", "--allow-empty", "--quiet", "--message", "evil")
    git(tmp_path / "somebody/action", "tag", "--force", NEW)
    done = workspace.make("pin-actions", word)
    assert done.returncode == 2 and "find out why" in done.stderr
    assert workflow(workspace).read_text() == before


def test_workflow_and_lock_that_differ_are_noticed(workspace: Workspace, github: dict[str, str]):
    assert workspace.make("pin-actions").returncode == 0
    workflow(workspace).write_text(f"steps:\n  - uses: somebody/action@{github[OLD]} # {OLD}\n")
    done = workspace.make("pin-actions", "ARGS=--offline")
    assert done.returncode == 2 and "is locked as" in done.stdout


def test_an_action_without_a_release_is_refused(workspace: Workspace, tmp_path: Path, github: dict[str, str]):
    for tag in (OLD, NEW):
        git(tmp_path / "somebody/action", "tag", "--delete", tag)
    done = workspace.make("pin-actions")
    assert done.returncode == 2 and "no release vX.Y.Z" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"a/b": {"version": "v1.0.0"}}', '{"a/b": {"version": "v1", "sha": "' + "0" * 40 + '", "seen": "x"}}'],
)
def test_a_lock_that_is_none(text: str):
    with pytest.raises(CiError, match=r"actions\.lock"):
        pins.read(text)
