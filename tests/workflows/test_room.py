from __future__ import annotations

from pathlib import Path

import pytest

from ci import room
from ci.commands import CiError
from tests.workflows.workspace import Workspace


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten GB free, and ten more for each folder that went; rm is real, sudo is not asked."""
    for name in ("a", "b", "c", "kept"):
        (tmp_path / name / "deep").mkdir(parents=True)
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    monkeypatch.setattr(room.os, "geteuid", lambda: 0)
    monkeypatch.setattr(room, "_free", lambda root: 10.0 + 10 * sum(not (root / name).exists() for name in "abc"))
    return tmp_path


def test_no_more_goes_than_is_wanted(disk: Path):
    assert room.make_room(25, disk, ("a", "none", "b", "c")) == ["a", "b"]
    assert (disk / "c").exists() and (disk / "kept").exists()


def test_enough_is_there_already(disk: Path):
    assert room.make_room(5, disk, ("a",)) == [] and (disk / "a").exists()


def test_too_little_fails_in_words(disk: Path):
    with pytest.raises(CiError, match="20 GB are free after a went, and 100 are wanted"):
        room.make_room(100, disk, ("a",))


def test_nothing_is_deleted_on_any_other_machine(disk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "self-hosted")
    with pytest.raises(CiError, match="make room yourself"):
        room.make_room(100, disk, ("a",))
    assert (disk / "a").exists()


def test_by_make_it_refuses_here(workspace: Workspace):
    done = workspace.make("runner-room")
    assert done.returncode == 2 and "make room yourself" in done.stderr
