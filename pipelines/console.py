"""What a local run shows: each step with a bar, and at the end what every step cost.

The steps speak in JSON lines (components/progress.py), Kubeflow's local runner in log lines. Both are read here;
everything also goes, as it came, to a log file.
"""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([\w-]+)'")
_FINISHED = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
_RAISED = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*): (.+)")
_ERROR_NAMES = ("Error", "Failed", "Mismatch", "Busy", "Moved", "Interrupt")
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
    """The last error that the step printed."""


@dataclass
class Record:
    """What the run said: its steps in order, and the last event of each kind."""

    steps: list[Step] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)


class StepConsole(io.TextIOBase):
    """A text stream that turns what is written to it into progress on `screen`, and keeps it in `log`."""

    def __init__(self, screen: Console, log: TextIO, total_steps: int):
        self.record = Record()
        self._screen, self._log, self._total = screen, log, total_steps
        self._pending = ""
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
        self._bars.stop()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take any piece of text; lines are acted on when they are complete."""
        self._log.write(text)
        self._log.flush()
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._read(_COLOUR.sub("", line).strip())
        return len(text)

    def _read(self, line: str) -> None:
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except ValueError:
                return
            if isinstance(event, dict) and "event" in event:
                self._take(event)
        elif match := _STARTED.search(line):
            self._start(match[1])
        elif match := _FINISHED.search(line):
            self._finish(match[2])
        elif self.record.steps and (match := _RAISED.match(line)) and match[1].endswith(_ERROR_NAMES):
            self.record.steps[-1].failure = match[2]

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        self.record.events[kind] = event
        if kind == "reused" and self.record.steps:
            self.record.steps[-1].reused = True
        elif kind == "progress":
            self._show_progress(event)
        elif kind in ("waiting", "resumed", "discarded", "skipped", "sampling", "rollout"):
            details = ", ".join(str(value) for name, value in event.items() if name not in ("event", "step"))
            self._screen.print(f"      {kind}: {details}", style="dim", highlight=False, markup=False)

    def _start(self, name: str) -> None:
        self.record.steps.append(Step(name.replace("-", "_"), time.monotonic()))
        title = f"[{len(self.record.steps)}/{self._total}] {name.replace('-', '_')}"
        if self._screen.is_terminal:
            self._bar = self._bars.add_task(title.replace("[", r"\["), total=None, rate="")
        else:
            self._screen.print(f"{title} ...", highlight=False, markup=False)
        self._said = time.monotonic()

    def _show_progress(self, event: dict[str, Any]) -> None:
        rate = f"{event['rate']:,.0f} {event['unit']}/s"
        if "loss" in event:
            rate += f"  loss {event['loss']:.3f}"
        if self._screen.is_terminal and self._bar is not None:
            self._bars.update(self._bar, total=event["total"], completed=event["done"], rate=rate)
        elif time.monotonic() - self._said > _PLAIN_SECONDS:
            self._said = time.monotonic()
            share = 100 * event["done"] / max(event["total"], 1)
            self._screen.print(
                f"      {share:.0f} %  {rate}  ETA {event['eta_seconds']} s", highlight=False, markup=False
            )

    def _finish(self, status: str) -> None:
        step = self.record.steps[-1]
        step.seconds = time.monotonic() - step.started
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None
        ended = "failed" if status != "SUCCESS" else "found in the store" if step.reused else "done"
        mark, style = ("✗", "red") if status != "SUCCESS" else ("✓", "green")
        self._screen.print(
            f"  {mark} {step.name:<17} {step.seconds:7.1f} s  {ended}", style=style, highlight=False, markup=False
        )


def open_log(path: Path) -> TextIO:
    """The run's log file, made with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")
