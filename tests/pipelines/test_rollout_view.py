"""What `slipway rollout status` shows, once and while it follows."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from components.rollout.target import TargetError
from components.step_config import InputError
from pipelines import rollout_view
from pipelines.rollout_view import draw, follow

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def found(**changes):
    """What deliver.status finds in the middle of a rollout."""
    one = {"url": "http://there", "reason": "", "state": "ready"}
    return {
        "service": "chat",
        "target": "local",
        "url": "http://here",
        "live": OLD,
        "serving": True,
        "previous": None,
        "state": {"state": "watching 10 %", "reason": "", "since": "2026-11-21T10:00:00Z"},
        "routed": {OLD: 90, NEW: 10},
        "instances": [one | {"role": "stable", "digest": OLD}, one | {"role": "candidate", "digest": NEW}],
        "history": [{"digest": OLD, "since": "2026-11-20", "run_id": "run-1"}],
        "held_by": {"pid": 7, "run": "laptop", "since": "now"},
    } | changes


def drawn(value) -> str:
    screen = Console(file=io.StringIO(), width=140)
    screen.print(draw(value))
    return screen.file.getvalue()


def test_roles_weights_and_the_transition_are_shown():
    lines = drawn(found()).splitlines()
    assert lines[0] == f"chat at http://here: live {OLD}"
    assert lines[1] == "watching 10 % since 2026-11-21T10:00:00Z"
    stable, candidate = lines[2:4]
    assert "stable" in stable and "90 %" in stable and stable.count("█") == 18
    assert "candidate" in candidate and "10 %" in candidate and candidate.count("█") == 2
    assert f"  {OLD[:19]}  went live 2026-11-20 by run run-1" in lines
    assert "a rollout is at work: pid 7, run laptop, since now" in lines


def test_a_reason_is_shown_and_markup_in_it_is_text():
    text = drawn(found(state={"state": "failed", "reason": "token [3] differs [/]", "since": "now"}))
    assert "failed since now: token [3] differs [/]" in text


@pytest.mark.parametrize(("target", "says"), [("local", "`slipway serve` starts them"), ("kserve", "nothing answers")])
def test_what_does_not_serve_is_said(target, says):
    assert says in drawn(found(serving=False, target=target))
    assert says not in drawn(found(serving=True, target=target))


def test_nothing_yet():
    text = drawn(found(live=None, state={}, instances=[], history=[], held_by=None, serving=False))
    assert text.splitlines() == ["chat at http://here: live nothing"]


def test_following_draws_what_changes_survives_a_failed_look_and_ends_with_ctrl_c(monkeypatch):
    monkeypatch.setattr(rollout_view, "_BETWEEN_LOOKS_SECONDS", 0)
    unknown = InputError("no chat was rolled out")
    looks = iter([unknown, found(), TargetError("no route to host"), found(live=NEW), KeyboardInterrupt()])

    def look():
        value = next(looks)
        if isinstance(value, BaseException):
            raise value
        return value

    screen = Console(file=io.StringIO(), width=140, force_terminal=True, color_system=None)
    began = time.monotonic()
    follow(look, screen)
    assert time.monotonic() - began < 5
    text = screen.file.getvalue()
    assert (
        text.index("no chat was rolled out")
        < text.index(f"live {OLD}")
        < text.index("no route to host")
        < text.index(f"live {NEW}")
    )
