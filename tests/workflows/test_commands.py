"""What becomes of a program whose job is ended: Terraform must be asked, or its state stays locked."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci import commands
from ci.commands import ROOT, CiError

LOCKING = """\
import pathlib, signal, sys, time

lock = pathlib.Path(sys.argv[1])

def ended(*_):
    time.sleep(0.5)  # what it is making is made first
    lock.unlink()
    sys.exit(1)

signal.signal(signal.SIGINT, ended)
lock.touch()
time.sleep(60)
"""
"""Takes a lock, and gives it back when it is asked to end; not when it is killed."""


@pytest.fixture
def locking(tmp_path: Path) -> list[str]:
    (tmp_path / "terraform.py").write_text(LOCKING)
    return [sys.executable, str(tmp_path / "terraform.py"), str(tmp_path / "lock")]


def test_a_program_that_takes_too_long_gives_its_lock_back(locking: list[str], tmp_path: Path):
    with pytest.raises(CiError, match="has not ended after 2 s"):
        commands.run(locking, seconds=2)
    assert not (tmp_path / "lock").exists()


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "_STOP_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    begun = time.monotonic()
    with pytest.raises(CiError, match="has not ended"):
        commands.ask([sys.executable, "-c", deaf], seconds=1)
    assert time.monotonic() - begun < 30


JOB = """
import sys
from ci import commands, job

sys.exit(job.carry_out("x", {"apply": lambda: commands.run(sys.argv[2:])}, sys.argv[1:2]))
"""


@pytest.mark.parametrize("numbers", [[signal.SIGINT, signal.SIGTERM], [signal.SIGTERM]])
def test_a_cancelled_job_waits_until_the_lock_is_back(
    locking: list[str], tmp_path: Path, numbers: list[signal.Signals]
):
    """GitHub's second signal comes while the first is being obeyed."""
    command = [sys.executable, "-c", JOB, "apply", *locking]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 30
        while not (tmp_path / "lock").exists() and time.monotonic() < until:
            time.sleep(0.05)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        _, complained = process.communicate(timeout=60)
    assert process.returncode == 1 and f"ended by signal {numbers[0].name}" in complained
    assert not (tmp_path / "lock").exists()


def test_the_codes_that_are_no_failure_are_told():
    assert commands.run([sys.executable, "-c", "raise SystemExit(2)"], good=(0, 2)) == 2
    with pytest.raises(CiError, match="ended with 2"):
        commands.run([sys.executable, "-c", "raise SystemExit(2)"])
