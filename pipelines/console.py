"""What a local run shows: each step with a bar, and at the end what every step cost.

The steps speak in JSON lines (components/progress.py), Kubeflow's local runner in log lines. Both are read here;
everything also goes, as it came, to a log file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# kfp's own lines, unlike the steps', are not indented and begin with the time
_STARTED = re.compile(r"^[\d:.]+ - INFO - Executing task '([\w-]+)'$")
_FINISHED = re.compile(r"^[\d:.]+ - \w+ - Task '([\w-]+)' finished with status (\w+)$")
_EVENT = '{"event": '
"""Begins what components/progress.py says; the rest of a line may hold a bar that some library left open."""

_RAISED = re.compile(r"^(?:([\w.]+)\.)?(\w+)(?:: ?(.*))?$")
_OURS = ("components", "pipelines", "serving")
_LONGEST_FAILURE = 400
_NOTEWORTHY = ("waiting", "resumed", "discarded", "replaced", "skipped", "sampling", "scoring", "rollout", "cut_off")
_PLAIN_SECONDS = 15
"""How often a step without a terminal says how far it is."""


@dataclass
class Step:
    """One executed step."""

    name: str
    started: float
    seconds: float = 0.0
    reused: bool = False
    failure: str = ""
    """Of a step that failed: the error that ended it."""


@dataclass
class Record:
    """What the run said: its steps in order, and the last event of each kind."""

    steps: list[Step] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Failure:
    """Picks the error that ended a step out of what the step printed."""

    def __init__(self) -> None:
        self._message = ""
        self._last_line = ""
        self._traceback: int | None = None
        """Indentation of the traceback that is being read; the error's line is the next one that stands so far left."""

        self._continued = False
        self._ignored = False

    def __str__(self) -> str:
        if self._message:
            return self._message
        return f"it ended without an error message; its last line: {self._last_line or '(none)'}"

    def read(self, line: str) -> None:
        """Take one line, with its indentation."""
        text = line.strip()
        self._last_line = text or self._last_line
        indentation = len(line) - len(line.lstrip())
        if text.startswith("Exception ignored in"):
            self._ignored = True  # said by the interpreter as it shuts down, after the error that counts
        elif text.startswith("Traceback (most recent call last)"):
            self._traceback, self._continued = indentation, False
        elif self._traceback is not None:
            if indentation <= self._traceback:
                self._take(text)
        elif self._continued and text and len(self._message) < _LONGEST_FAILURE:
            colon = ":" if self._message.isidentifier() else ""
            self._message = f"{self._message}{colon} {text}"[:_LONGEST_FAILURE]
        else:
            self._continued = False

    def _take(self, text: str) -> None:
        self._traceback = None
        match = _RAISED.match(text)
        if match and not self._ignored:
            module, kind, words = match.groups(default="")
            # our errors are written for the user; of others the kind is half of what they say
            ours = module.partition(".")[0] in _OURS
            self._message = words if ours and words else f"{kind}: {words}" if words else kind
            self._continued = True
        self._ignored = False


class StepConsole(io.TextIOBase):
    """A text stream that turns what is written to it into progress on `screen`, and keeps it in `log`.

    It stands in for sys.stdout while steps run, so `screen` must be bound to a stream of its own.
    """

    def __init__(self, screen: Console, log: TextIO, total_steps: int):
        self.record = Record()
        self._screen, self._log, self._total = screen, log, total_steps
        self._pending = ""
        self._failure = _Failure()
        self._said = 0.0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> StepConsole:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pending:
            self.write("\n")
        self._bars.stop()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take any piece of text; lines are acted on when they are complete."""
        self._log.write(text)
        self._log.flush()
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._read(_COLOUR.sub("", line).rstrip())
        return len(text)

    def _read(self, line: str) -> None:
        if (begin := line.find(_EVENT)) >= 0:
            try:
                event, _ = json.JSONDecoder().raw_decode(line, begin)
            except ValueError:
                return
            self._take(event)
        elif match := _STARTED.match(line):
            self._start(match[1])
        elif (match := _FINISHED.match(line)) and self.record.steps:
            self._finish(match[2])
        else:
            self._failure.read(line)

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        self.record.events[kind] = event
        if kind == "reused" and self.record.steps:
            self.record.steps[-1].reused = True
        elif kind == "progress":
            self._show_progress(event)
        elif kind in _NOTEWORTHY:
            details = ", ".join(str(value) for name, value in event.items() if name not in ("event", "step"))
            self._screen.print(f"      {kind}: {details}", style="dim", highlight=False, markup=False)

    def _start(self, task: str) -> None:
        name = task.replace("-", "_")
        self.record.steps.append(Step(name, time.monotonic()))
        self._failure = _Failure()
        title = f"[{len(self.record.steps)}/{self._total}] {name}"
        if self._screen.is_terminal:
            self._bar = self._bars.add_task(escape(title), total=None, rate="")
        else:
            self._screen.print(f"{title} ...", highlight=False, markup=False)
        self._said = time.monotonic()

    def _show_progress(self, event: dict[str, Any]) -> None:
        digits = 0 if event["rate"] >= 10 else 1
        rate = f"{event['rate']:,.{digits}f} {event['unit']}/s"
        if "loss" in event:
            rate += f"  loss {event['loss']:.3f}"
        if self._bar is not None:
            self._bars.update(self._bar, total=event["total"], completed=event["done"], rate=rate)
        elif time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            share = 100 * event["done"] / max(event["total"], 1)
            left = "" if event["eta_seconds"] is None else f"  ETA {event['eta_seconds']} s"
            self._screen.print(f"      {share:.0f} %  {rate}{left}", highlight=False, markup=False)

    def _finish(self, status: str) -> None:
        step = self.record.steps[-1]
        step.seconds = time.monotonic() - step.started
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
        if status != "SUCCESS":
            step.failure = str(self._failure)
        ended = "failed" if status != "SUCCESS" else "found in the store" if step.reused else "done"
        mark, style = ("✗", "red") if status != "SUCCESS" else ("✓", "green")
        self._screen.print(
            f"  {mark} {step.name:<17} {step.seconds:7.1f} s  {ended}", style=style, highlight=False, markup=False
        )


@contextlib.contextmanager
def show_events(screen: Console) -> Iterator[None]:
    """Show what the code within says, outside of a pipeline run, as people read it."""
    with (
        open(os.devnull, "w") as log,
        StepConsole(screen, log, total_steps=0) as console,
        contextlib.redirect_stdout(console),
    ):
        yield


def open_log(path: Path) -> TextIO:
    """The run's log file, made with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")
