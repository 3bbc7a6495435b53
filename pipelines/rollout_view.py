"""How `slipway rollout status` draws what is served, once or live."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from components.rollout.target import TargetError
from components.step_config import InputError

_BETWEEN_LOOKS_SECONDS = 1.0
_BAR = 20
_HISTORY = 5
_DIGEST = 19
"""Characters of a digest that tell releases apart: "sha256:" and twelve digits."""

_COLOURS = {"ready": "green", "starting": "yellow", "failed": "red", "stopped": "dim"}


def draw(found: dict[str, Any]) -> RenderableType:
    """What `deliver.status` found, as people read it."""
    lines: list[RenderableType] = [Text(f"{found['service']} at {found['url']}: live {found['live'] or 'nothing'}")]
    noted = found["state"]
    if noted.get("state"):
        reason = f": {noted['reason']}" if noted.get("reason") else ""
        lines.append(Text(f"{noted['state']} since {noted.get('since', '?')}{reason}"))
    if found["live"] and not found["serving"]:
        start = "its processes do not run; `slipway serve` starts them"
        lines.append(Text(start if found["target"] == "local" else "nothing answers at its address", "yellow"))
    if found["instances"]:
        lines.append(_instances(found))
    lines += [Text(_went_live(entry), "dim") for entry in found["history"][-_HISTORY:]]
    if found["held_by"]:
        held = ", ".join(f"{key} {value}" for key, value in found["held_by"].items() if value)
        lines.append(Text(f"a rollout is at work: {held}", "cyan"))
    return Group(*lines)


def _went_live(entry: dict[str, str]) -> str:
    run = f" by run {entry['run_id']}" if entry["run_id"] else ""
    return f"  {entry['digest'][:_DIGEST]}  went live {entry['since']}{run}"


def follow(look: Callable[[], dict[str, Any]], screen: Console) -> None:
    """Draw again every second what `look` finds, until Ctrl-C.

    A look that fails, as before a service's first rollout, is told beneath the last one.
    """
    shown: RenderableType = Text("looking …")
    with Live(shown, console=screen, auto_refresh=False) as live:
        try:
            while True:
                try:
                    shown = draw(look())
                    live.update(shown, refresh=True)
                except (TargetError, InputError) as error:
                    live.update(Group(shown, Text(str(error), "red")), refresh=True)
                time.sleep(_BETWEEN_LOOKS_SECONDS)
        except KeyboardInterrupt:
            return


def _instances(found: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    for one in found["instances"]:
        weight = found["routed"].get(one["digest"], 0)
        bar = "█" * round(_BAR * weight / 100)
        table.add_row(
            one["role"],
            one["digest"][:_DIGEST],
            Text(one["state"], _COLOURS.get(one["state"], "")),
            Text(f"{weight:>3} %"),
            Text(bar.ljust(_BAR), "green"),
            Text(f"{one['url']} {one['reason']}".strip()),
        )
    return table
