"""Puts the programs of .ci/tools.txt under .tools/, each into an environment of its own: `make tools`.

    python -m images.tools [NAME ...]

Without names all Python tools; a Go program is built when it is named. Needs Python with pip and nothing of Slipway's,
so that a job that uses one program installs that alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path

from images.errors import ImageError

ROOT = Path(__file__).parent.parent
LIST = ROOT / ".ci/tools.txt"
LOCKS = ROOT / ".ci/tools"
"""What each Python tool needs in turn, with hashes."""

PLACE = ROOT / ".tools"


@dataclass(frozen=True)
class Tool:
    """One line of the list."""

    name: str
    """By which it is asked for: the package, or a Go program's last word."""

    source: str
    """The package index's name, or the Go package."""

    version: str
    go: bool
    settings: tuple[tuple[str, str], ...] = ()
    """Of the Go compiler, where a program asks for some."""

    @property
    def folder(self) -> Path:
        return PLACE / self.name

    @property
    def stamp(self) -> Path:
        """Written last: a tool without it was not finished."""
        return self.folder / "installed"

    @property
    def lock(self) -> Path:
        return LOCKS / f"{self.name}.txt"

    @property
    def identity(self) -> str:
        """What was installed, so that another version or another lock is installed anew."""
        return f"{self.source} {self.version} {self.settings}\n" + ("" if self.go else self.lock.read_text())


def read(text: str) -> list[Tool]:
    """The tools of a list; raises ImageError for a line that is neither NAME==VERSION nor PACKAGE@VERSION."""
    tools = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if python := re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.]+)", line):
            tools.append(Tool(python[1], python[1], python[2], go=False))
        elif go := re.fullmatch(r"([\w.-]+(?:/[\w.-]+)+)@(v[\w.+-]+)((?: GO[A-Z]+=\w+)*)", line):
            settings = tuple((name, value) for name, value in re.findall(r"(\w+)=(\w+)", go[3]))
            tools.append(Tool(go[1].rpartition("/")[2], go[1], go[2], True, settings))
        else:
            raise ImageError(f".ci/tools.txt: {line!r} is neither NAME==VERSION nor a Go package PATH@vVERSION")
    return tools


def wanted(names: Iterable[str], tools: list[Tool]) -> list[Tool]:
    """Those named; without names all Python tools, since Go programs take minutes to build."""
    names = list(names)
    if unknown := sorted(set(names) - {tool.name for tool in tools}):
        raise ImageError(f"{', '.join(unknown)}: not in .ci/tools.txt, which has {', '.join(t.name for t in tools)}")
    return [tool for tool in tools if tool.name in names or (not names and not tool.go)]


def install(names: Iterable[str] = ()) -> None:
    """Install what is not there yet; raises ImageError."""
    for tool in wanted(names, read(LIST.read_text())):
        if tool.stamp.exists() and tool.stamp.read_text() == tool.identity:
            continue
        print(f"{tool.name} {tool.version} …", flush=True)
        shutil.rmtree(tool.folder, ignore_errors=True)
        programs = _go(tool) if tool.go else _python(tool)
        for program in programs:
            _link(program)
        tool.stamp.write_text(tool.identity)
        print(f"{tool.name} {tool.version}: {', '.join(f'.tools/bin/{program.name}' for program in programs)}")


def find(name: str) -> str | None:
    """Path of a program: of `make tools`, else on PATH."""
    ours = PLACE / "bin" / name
    return str(ours) if ours.exists() else shutil.which(name)


def program(name: str, tool: str = "") -> str:
    """Path of a program; raises ImageError that says how it is installed."""
    found = find(name)
    if not found:
        raise ImageError(f"{name} is not installed: make tools TOOLS={tool or name}")
    return found


def _python(tool: Tool) -> list[Path]:
    """An environment of its own, without pip, which takes longer than most tools; every hash is known beforehand."""
    if not tool.lock.exists():
        raise ImageError(f"{tool.lock} is missing: make lock")
    _run([sys.executable, "-m", "venv", "--without-pip", str(tool.folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(tool.folder / "bin/python"), "install"]
    flags = ["--quiet", "--disable-pip-version-check", "--require-hashes"]
    _run([*pip, *flags, "--requirement", str(tool.lock)])
    return _commands(tool)


def _commands(tool: Tool) -> list[Path]:
    """The programs that the tool's own package brought, not those of what it needs."""
    (site,) = tool.folder.glob("lib/python*/site-packages")
    names = {_canonical(path.name.split("-")[0]): path for path in site.glob("*.dist-info")}
    files = PathDistribution(names[_canonical(tool.source)]).files or []
    return sorted(
        {Path(os.path.normpath(site / file)) for file in files if file.parent.name == "bin"}, key=lambda path: path.name
    )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _go(tool: Tool) -> list[Path]:
    if not shutil.which("go"):
        raise ImageError(f"{tool.name} is built with Go, which is not installed: https://go.dev/doc/install")
    tool.folder.mkdir(parents=True)
    settings = {"GOBIN": str(tool.folder), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath", **dict(tool.settings)}
    _run(["go", "install", "-ldflags=-s -w", f"{tool.source}@{tool.version}"], os.environ | settings)
    return [tool.folder / tool.name]


def _link(program: Path) -> None:
    link = PLACE / "bin" / program.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(program, link.parent))


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=PLACE.parent)
    if done.returncode:
        last = "\n".join((done.stderr + done.stdout).splitlines()[-15:])
        raise ImageError(f"`{' '.join(command[:4])} …` failed:\n{last}")


def main(names: list[str]) -> int:
    try:
        install(names)
    except ImageError as error:
        print(f"tools: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
