"""What a local run shows, from lines as Kubeflow's local runner and the steps really print them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipelines import console as console_module
from pipelines.console import Record, StepConsole, open_log

# Recorded from kfp 2.17's SubprocessRunner: its own lines begin with the time and are coloured, the steps' are
# indented by four.
STARTED = "11:24:18.152 - INFO - Executing task \x1b[96m'{}'\x1b[0m\n11:24:18.152 - INFO - Streamed logs:\n\n"
ENDED = "    \n\n11:24:18.273 - INFO - Task \x1b[96m'{}'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m\n"
FAILED = "    \n\n11:24:18.853 - ERROR - Task \x1b[96m'{}'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m\n"
EXECUTOR = """\
    [KFP Executor 2026-11-21 11:24:18,254 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {
                "run": {
                    "name": "Executing task 'nothing'"
                }
            }
        }
    }
"""
OUTPUTS = """\
11:24:18.274 - INFO - Task \x1b[96m'fetch-base'\x1b[0m outputs:
    model: Model( name='model',
                  uri='/runs/train-and-release/fetch-base/model',
                  metadata={} )
--------------------------------------------------------------------------------
"""
CHAINED = """\
    Traceback (most recent call last):
      File "/tmp/tmp.3w5pv9CMp7/ephemeral_component.py", line 14, in rollout
        {}["k"]
        ~~^^^^^
    KeyError: 'k'

    The above exception was the direct cause of the following exception:

    Traceback (most recent call last):
      File "<frozen runpy>", line 198, in _run_module_as_main
      File "/tmp/tmp.3w5pv9CMp7/ephemeral_component.py", line 16, in rollout
        raise InputError("the port 8000 is in use; set rollout.port") from error
    components.step_config.InputError: the port 8000 is in use; set rollout.port
"""
VALIDATION = """\
    Traceback (most recent call last):
      File "/site-packages/pydantic/main.py", line 280, in __init__
        validated_self = self.__pydantic_validator__.validate_python(data, self_instance=self)
                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    pydantic_core._pydantic_core.ValidationError: 1 validation error for RunSettings
    name
      Field required [type=missing, input_value={'nam': 3}, input_type=dict]
"""
SHUTDOWN = """\
    Exception ignored in: <function Pool.__del__ at 0x7f>
    Traceback (most recent call last):
      File "/lib/python3.11/multiprocessing/pool.py", line 271, in __del__
        self._change_notifier.put(None)
    AttributeError: 'NoneType' object has no attribute 'put'
"""


def event(kind: str, **fields: object) -> str:
    """One line of components/progress.py, as the local runner passes it on."""
    return "    " + json.dumps({"event": kind, **fields}, ensure_ascii=False) + "\n"


def progress(done: int, total: int = 1000, rate: float = 280.4, eta: int | None = 3, **values: float) -> str:
    return event(
        "progress", step="finetune", done=done, total=total, unit="tokens", rate=rate, eta_seconds=eta, **values
    )


def show(text: str, *, terminal: bool = False, piece: int = 0, steps: int = 9) -> tuple[Record, str]:
    """(what was understood, what was shown) of a run that printed `text`, `piece` characters at a time."""
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100, soft_wrap=True)
    with StepConsole(screen, io.StringIO(), steps) as stream:
        for start in range(0, len(text), piece or len(text)):
            stream.write(text[start : start + (piece or len(text))])
    return stream.record, screen.file.getvalue()  # type: ignore[attr-defined]


def failure_of(output: str) -> str:
    record, _ = show(STARTED.format("rollout") + EXECUTOR + output + FAILED.format("rollout"))
    return record.steps[-1].failure


# --- the record ------------------------------------------------------------------------------------------------

RUN = (
    "11:24:18.150 - INFO - Running pipeline: \x1b[95m'train-and-release'\x1b[0m\n"
    + STARTED.format("fetch-base")
    + EXECUTOR
    + event("reused", step="fetch_base", key="abc")
    + ENDED.format("fetch-base")
    + OUTPUTS
    + STARTED.format("quality-gate")
    + event("verdict", step="quality_gate", verdict="pass", reason="0.31 nats/token better, ≥ 0")
    + ENDED.format("quality-gate")
)


@pytest.mark.parametrize("piece", [0, 1, 7, 100])
def test_steps_and_events_are_recorded_however_the_text_is_cut(piece):
    record, shown = show(RUN, piece=piece)
    assert [(step.name, step.reused, step.failure) for step in record.steps] == [
        ("fetch_base", True, ""),
        ("quality_gate", False, ""),
    ]
    assert record.events["verdict"]["reason"] == "0.31 nats/token better, ≥ 0"
    assert [line.split() for line in shown.splitlines()] == [
        ["[1/9]", "fetch_base", "..."],
        ["✓", "fetch_base", "0.0", "s", "found", "in", "the", "store"],
        ["[2/9]", "quality_gate", "..."],
        ["✓", "quality_gate", "0.0", "s", "done"],
    ]


def test_seconds_are_counted_per_step(monkeypatch):
    clock = iter([100.0, 101.0, 107.5])
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    record, shown = show(STARTED.format("finetune") + ENDED.format("finetune"))
    assert record.steps[0].seconds == 7.5
    assert "7.5 s" in shown


def test_what_a_step_prints_is_not_taken_for_kfps_own_lines():
    record, _ = show(
        STARTED.format("prepare-data")
        + "    11:24:18.152 - INFO - Executing task 'planted'\n"
        + "    Task 'prepare-data' finished with status FAILURE\n"
        + ENDED.format("prepare-data")
    )
    assert [(step.name, step.failure) for step in record.steps] == [("prepare_data", "")]


def test_an_event_behind_an_open_progress_bar_is_read():
    text = (
        STARTED.format("evaluate")
        + "    Loading weights:  50%|█████     |"
        + event("skipped", why="already live").lstrip()
    )
    record, _ = show(text)
    assert record.events["skipped"]["why"] == "already live"


@pytest.mark.parametrize("line", ["{", '{"event": ', '{"event": "verdict", "reason": "cut', '{"events": 1}', "[1, 2]"])
def test_what_is_no_event_is_passed_over(line):
    record, _ = show(STARTED.format("evaluate") + f"    {line}\n" + ENDED.format("evaluate"))
    assert record.events == {}


def test_the_last_line_counts_although_nothing_ends_it():
    record, _ = show(STARTED.format("evaluate") + event("skipped", why="x").rstrip("\n"))
    assert "skipped" in record.events


def test_the_log_keeps_everything_as_it_came(tmp_path):
    path = tmp_path / "runs" / "r-1" / "log.txt"
    with open_log(path) as log, StepConsole(Console(file=io.StringIO()), log, 9) as stream:
        stream.write(RUN)
    assert path.read_text(encoding="utf-8") == RUN


def test_it_stands_in_for_standard_output(capsys):
    """kfp logs to what sys.stdout is and prints to it; the screen keeps the real one."""
    screen = Console(file=sys.stdout, width=100, soft_wrap=True)
    with StepConsole(screen, io.StringIO(), 9) as stream, contextlib.redirect_stdout(stream):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("11:24:18.152 - %(levelname)s - %(message)s"))
        handler.emit(logging.LogRecord("kfp", logging.INFO, "", 0, "Executing task 'stop'", None, None))
        print(ENDED.format("stop"), end="")
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["stop", "stop"]
    assert stream.record.steps[0].name == "stop"


# --- why a step failed -----------------------------------------------------------------------------------------


def test_our_errors_are_told_in_their_own_words():
    assert failure_of(CHAINED) == "the port 8000 is in use; set rollout.port"


def test_other_errors_are_told_with_their_kind():
    assert failure_of(CHAINED[: CHAINED.index("\n\n") + 1]) == "KeyError: 'k'"


def test_an_error_of_several_lines_is_told_on_one():
    assert failure_of(VALIDATION) == (
        "ValidationError: 1 validation error for RunSettings name "
        "Field required [type=missing, input_value={'nam': 3}, input_type=dict]"
    )


def test_an_error_without_words_is_told_by_its_kind():
    assert failure_of("    Traceback (most recent call last):\n      File\n    AssertionError\n") == "AssertionError"
    words = "    Traceback (most recent call last):\n      File\n    ValueError: \n    second line\n"
    assert failure_of(words) == "ValueError: second line"


@pytest.mark.parametrize(
    "kind", ["rollout.target.ChampionMoved", "store.StoreBusy", "package_release.package.EngineMismatch"]
)
def test_an_errors_name_may_end_in_anything(kind):
    trace = f"    Traceback (most recent call last):\n      File\n    components.{kind}: what was live changed\n"
    assert failure_of(trace) == "what was live changed"


def test_what_the_interpreter_says_while_it_shuts_down_does_not_count():
    assert failure_of(CHAINED + SHUTDOWN) == "the port 8000 is in use; set rollout.port"


def test_a_killed_step_is_told_with_its_last_line():
    assert failure_of("    Killed\n") == "it ended without an error message; its last line: Killed"


def test_an_error_that_was_survived_is_no_failure():
    record, _ = show(STARTED.format("rollout") + CHAINED + ENDED.format("rollout"))
    assert record.steps[0].failure == ""


def test_an_earlier_steps_error_is_not_the_next_ones():
    text = STARTED.format("finetune") + CHAINED + ENDED.format("finetune")
    record, shown = show(text + STARTED.format("rollout") + "    Killed\n" + FAILED.format("rollout"))
    assert record.steps[1].failure.endswith("Killed")
    assert shown.splitlines()[-1].split() == ["✗", "rollout", "0.0", "s", "failed"]


def test_a_long_error_is_cut():
    trace = "    Traceback (most recent call last):\n      File\n    ValueError: x\n" + "    more words\n" * 1000
    assert len(failure_of(trace)) <= 400


# --- progress --------------------------------------------------------------------------------------------------


def test_without_a_terminal_progress_is_told_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    screen = Console(file=io.StringIO(), force_terminal=False, width=100, soft_wrap=True)
    with StepConsole(screen, io.StringIO(), 9) as stream:
        stream.write(STARTED.format("finetune"))
        for second in range(40):
            now[0] = 100.0 + second
            stream.write(progress(second * 25, eta=40 - second, loss=2.5 - second / 100))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "[1/9] finetune ...",
        "      40 %  280 tokens/s  loss 2.340  ETA 24 s",
        "      80 %  280 tokens/s  loss 2.180  ETA 8 s",
    ]


def test_a_slow_or_unknown_rate_is_told_sensibly(monkeypatch):
    monkeypatch.setattr(console_module, "_PLAIN_SECONDS", -1)
    _, shown = show(
        STARTED.format("evaluate") + progress(0, total=0, rate=0.0, eta=None) + progress(1, rate=0.42, eta=90)
    )
    assert [line.strip() for line in shown.splitlines()[1:]] == ["0 %  0.0 tokens/s", "0 %  0.4 tokens/s  ETA 90 s"]


def test_on_a_terminal_a_bar_shows_rate_and_loss():
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100, soft_wrap=True)
    deadline = time.monotonic() + 30
    with StepConsole(screen, io.StringIO(), 9) as stream:
        stream.write(STARTED.format("finetune") + progress(500, loss=2.31))
        # another thread draws the bar
        while "50 %" not in screen.file.getvalue() and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.01)
        stream.write(ENDED.format("finetune"))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "50 %  280 tokens/s  loss 2.310" in shown
    assert "[1/9] finetune " in shown
    assert "✓ finetune" in shown
    assert "..." not in shown


def test_events_worth_knowing_are_shown(monkeypatch):
    text = (
        STARTED.format("rollout")
        + event("resumed", step="finetune", checkpoint="checkpoint-4")
        + event("rollout", step="rollout", does="apply", release="sha256:abc")
        + event("stored", step="rollout", key="abc")
    )
    _, shown = show(text)
    assert [line.strip() for line in shown.splitlines()[1:]] == ["resumed: checkpoint-4", "rollout: apply, sha256:abc"]


def test_brackets_in_an_event_are_text_not_style():
    _, shown = show(STARTED.format("rollout") + event("waiting", why="process 7 [red]works[/red] on it"))
    assert "process 7 [red]works[/red] on it" in shown


def test_a_steps_own_output_stays_off_the_screen():
    _, shown = show(STARTED.format("finetune") + "    a library's warning\n" + CHAINED)
    assert shown.splitlines() == ["[1/9] finetune ..."]
