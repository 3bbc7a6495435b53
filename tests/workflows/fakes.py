"""Programs and services at the border, by hand: they answer as told and remember how they were called."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PROGRAM = """\
#!{python} -IS
import json, os, re, sys, time
name, folder = {name!r}, {folder!r}
line = " ".join(sys.argv[1:])
given = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
with open(folder + "/calls.jsonl", "a") as log:
    log.write(json.dumps({{"name": name, "words": sys.argv[1:], "given": given, "env": dict(os.environ)}}) + "\\n")
answers = [json.loads(one) for one in open(folder + "/answers.jsonl")]
for number, answer in enumerate(answers):
    used = folder + f"/used-{{number}}"
    times = int(open(used).read()) if os.path.exists(used) else 0
    fits = answer["name"] == name and re.search(answer["when"], line)
    if fits and (answer["times"] is None or times < answer["times"]):
        open(used, "w").write(str(times + 1))
        for path, text in answer["writes"].items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            open(path, "w").write(text)
        sys.stdout.write(answer["says"])
        sys.stdout.flush()
        sys.stderr.write(answer["complains"])
        time.sleep(answer["stays"])
        sys.exit(answer["code"])
rest = {rest!r}
sys.stderr.write(rest["complains"])
sys.exit(rest["code"])
"""


@dataclass(frozen=True)
class Call:
    """One start of a program."""

    name: str
    words: list[str]
    given: str
    env: dict[str, str]

    @property
    def line(self) -> str:
        return " ".join([self.name, *self.words])


class Programs:
    """A folder for the front of PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        for name in ("answers.jsonl", "calls.jsonl"):
            (folder / name).touch()

    def guard(self, *names: str) -> None:
        """Until a test says what they answer, these fail: nobody's own gcloud is called by mistake."""
        for name in names:
            self._program(name, complains=f"no test told {name} what to say\n", code=97)

    def put(self, *names: str) -> None:
        """Succeed and say nothing, but for what is answered."""
        for name in names:
            self._program(name)

    def answer(
        self,
        name: str,
        when: str = "",
        *,
        says: str = "",
        complains: str = "",
        code: int = 0,
        times: int | None = None,
        stays: float = 0,
        writes: dict[str, str] | None = None,
    ) -> None:
        """For calls whose words match `when`: the first answer that fits, `times` often; other calls succeed."""
        self.put(name)
        answer = {"name": name, "when": when, "says": says, "complains": complains, "code": code, "times": times}
        with (self.folder / "answers.jsonl").open("a") as file:
            file.write(json.dumps({**answer, "stays": stays, "writes": writes or {}}) + "\n")

    def before(self, *words: str, **answer: Any) -> None:
        """The same, ahead of what was answered until now."""
        path = self.folder / "answers.jsonl"
        earlier = path.read_text()
        path.write_text("")
        self.answer(*words, **answer)
        path.write_text(path.read_text() + earlier)

    def _program(self, name: str, complains: str = "", code: int = 0) -> None:
        rest = {"complains": complains, "code": code}
        path = self.folder / name
        path.write_text(_PROGRAM.format(python=sys.executable, name=name, folder=str(self.folder), rest=rest))
        path.chmod(0o755)

    def calls(self, *names: str) -> list[Call]:
        found = [Call(**json.loads(line)) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        return [call for call in found if not names or call.name in names]

    def lines(self, *names: str) -> list[str]:
        return [call.line for call in self.calls(*names)]

    @property
    def path(self) -> str:
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"


class Service:
    """An HTTP server that answers from a table: (method, path) -> [(status, body), …], the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, Any, dict[str, str]]] = []

    def set(self, method: str, path: str, *replies: tuple[int, Any]) -> None:
        self.answers[method, path] = list(replies)

    def sent(self, method: str) -> list[Any]:
        return [body for how, _, body, _ in self.asked if how == method]

    @contextmanager
    def serve(self) -> Iterator[str]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                service.asked.append((self.command, self.path, body, dict(self.headers)))
                replies = service.answers.get((self.command, self.path), [(404, {"message": "Not Found"})])
                status, reply = replies.pop(0) if len(replies) > 1 else replies[0]
                data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = _answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
