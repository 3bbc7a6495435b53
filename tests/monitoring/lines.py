"""What the code prints as JSON lines: read from the calls that print them, or printed for real."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.progress import Progress
from serving.drain import Departure
from serving.logs import JsonFormatter
from serving.middleware import Frame
from serving.settings import Settings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Line:
    """One kind of line: field -> its value where it is the same in every such line, else None."""

    fields: dict[str, str | None] = field(default_factory=dict)

    def fits(self, conditions: dict[str, str]) -> bool:
        """Whether a line of this kind can have these values."""
        return all(name in self.fields and self.fields[name] in (None, value) for name, value in conditions.items())


def lines() -> list[Line]:
    """Every kind of line that server, steps and rollouts print."""
    return [*_said(), _progress(), _request(), _error()]


def _said() -> Iterator[Line]:
    """The calls of components.progress.say."""
    for path in sorted((ROOT / "components").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name("say"), args=[event], keywords=keywords):
                    given = {one.arg: _constant(one.value) for one in keywords if one.arg}
                    # `**share` and the like: what is in them is looked up by hand where a filter needs it
                    yield from (Line({"event": name, **given}) for name in _events(event))


def _events(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(str(name)):
            return [name]
        case ast.IfExp(body=body, orelse=other):
            return [*_events(body), *_events(other)]
    return []


def _constant(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _progress() -> Line:
    """A line of the training's progress, printed for real with what finetune gives it."""
    source = (ROOT / "components/finetune/trainer.py").read_text()
    assert 'Progress("finetune"' in source and '"loss": last["loss"]' in source, "finetune no longer says its loss"
    printed = io.StringIO()
    with redirect_stdout(printed):
        Progress("finetune", total=1, unit="tokens").advance(1, loss=2.5)
    return Line(
        {name: str(value) if name == "event" else None for name, value in json.loads(printed.getvalue()).items()}
    )


def _request() -> Line:
    """The server's line of one request, from its own middleware."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health",
        "headers": [(b"host", b"localhost")],
        "query_string": b"",
    }
    frame = Frame(answer, release="sha256:0", settings=Settings(), departure=Departure())
    return _logged("serving.access", lambda: asyncio.run(frame(scope, receive, send)))


def _error() -> Line:
    return _logged("serving.access", lambda: logging.getLogger("serving.access").error("unexpected fault"))


def _logged(name: str, act: Any) -> Line:
    """What a logger writes meanwhile, in the server's form."""
    printed = io.StringIO()
    handler = logging.StreamHandler(printed)
    handler.setFormatter(JsonFormatter("sha256:0"))
    logger = logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        act()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    (line,) = [json.loads(text) for text in printed.getvalue().splitlines()]
    same = {"level", "logger", "message"}
    return Line({key: value if key in same else None for key, value in line.items()})
