"""Other programs: run them, and say in one line what failed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


class CiError(RuntimeError):
    """A job cannot go on; says what is wrong, with which value, and what to do."""


def program(name: str, how: str = "") -> str:
    """Path of a program: of `make tools`, else on PATH. Raises CiError."""
    ours = ROOT / ".tools/bin" / name
    found = str(ours) if ours.exists() else shutil.which(name)
    if not found:
        raise CiError(f"{name} is not installed{': ' + how if how else ''}")
    return found


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str | None = None,
    seconds: float = 3600,
) -> None:
    """Run a program whose output is shown. Raises CiError when it fails or takes longer."""
    words = [str(word) for word in command]
    print("+", " ".join(words), file=sys.stderr, flush=True)
    _judge(words, _start(words, cwd, env, given, seconds, shown=True))


def ask(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> str:
    """What a program prints. Raises CiError with the end of its error output."""
    words = [str(word) for word in command]
    done = _start(words, cwd, env, None, seconds, shown=False)
    _judge(words, done)
    return done.stdout


def _start(
    words: list[str],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    given: str | None,
    seconds: float,
    *,
    shown: bool,
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            cwd=cwd or ROOT,
            env={**os.environ, **(env or {})},
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=not shown,
            text=True,
            timeout=seconds,
        )
    except FileNotFoundError as error:
        raise CiError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CiError(f"`{' '.join(words[:3])} …` has not ended after {seconds:g} s") from error


def _judge(words: list[str], done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        said = "\n".join((done.stderr or "").strip().splitlines()[-8:])
        raise CiError(f"`{' '.join(words[:4])} …` ended with {done.returncode}" + (f":\n{said}" if said else ""))
