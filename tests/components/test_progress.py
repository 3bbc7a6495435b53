"""Events are single JSON lines, progress is said in time and not too often."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components import progress
from components.progress import Progress, say
from tests.components.conftest import events

ROOT = Path(__file__).parents[2]


class Clock:
    """Stands in for the time module; it goes on only when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_an_event_is_one_line_of_json_readable_by_people(capsys):
    say("refused", reason="broken\nline", city="Köln")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "Köln" in out
    assert json.loads(out) == {"event": "refused", "reason": "broken\nline", "city": "Köln"}


def test_an_event_is_out_at_once_also_into_a_pipe():
    """A killed pod's last event must be in its log."""
    code = "import os; from components.progress import say; say('before'); os._exit(0)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=buffered, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"event": "before"}


def test_progress_is_said_once_a_second_with_rate_and_remaining_time(clock, capsys):
    bar = Progress("finetune", total=1_000, unit="tokens")
    for _ in range(25):
        clock.now += 0.1
        bar.advance(20, loss=1.23456)
    first, second = events(capsys)
    assert first == {
        "event": "progress",
        "step": "finetune",
        "done": 200,
        "total": 1_000,
        "unit": "tokens",
        "rate": 200.0,
        "eta_seconds": 4,
        "loss": 1.2346,
    }
    assert (second["done"], second["eta_seconds"]) == (400, 3)


def test_the_end_is_always_said(clock, capsys):
    bar = Progress("evaluate", total=2, unit="examples")
    clock.now += 0.01
    bar.advance(1)
    bar.advance(1)
    (last,) = events(capsys)
    assert (last["done"], last["eta_seconds"]) == (2, 0)


def test_what_an_earlier_process_did_counts_as_done_but_not_as_speed(clock, capsys):
    bar = Progress("finetune", total=1_000, unit="tokens", done=800)
    clock.now += 2
    bar.advance(100)
    (event,) = events(capsys)
    assert (event["done"], event["rate"], event["eta_seconds"]) == (900, 50.0, 2)


def test_without_any_advance_there_is_no_remaining_time(clock, capsys):
    bar = Progress("evaluate", total=5, unit="examples")
    clock.now += 2
    bar.advance(0)
    assert events(capsys)[0]["eta_seconds"] is None
