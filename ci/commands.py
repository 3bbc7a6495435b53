"""Other programs: run them, and say in one line what failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from images import tools

ROOT = Path(__file__).parent.parent

_STOP_SECONDS = 600
"""Terraform ends once what Google makes at the moment is made; a cluster takes its time. GitHub kills it sooner."""


class CiError(RuntimeError):
    """A job cannot go on; says what is wrong, with which value, and what to do."""


def program(name: str, how: str = "") -> str:
    """Path of a program: of `make tools`, else on PATH. Raises CiError."""
    found = tools.find(name)
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
    good: Collection[int] = (0,),
) -> int:
    """Run a program whose output is shown; its exit code, one of `good`. Raises CiError, also when it takes longer."""
    words = [str(word) for word in command]
    print("+", " ".join(words), file=sys.stderr, flush=True)
    done = _start(words, cwd, env, given, seconds, shown=True)
    _judge(words, done, good)
    return done.returncode


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
    pipe = None if shown else subprocess.PIPE
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd or ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=pipe,
            stderr=pipe,
            text=True,
            # a terminal's Ctrl-C reaches this process alone: Terraform takes a second one for "at once, lock or not"
            process_group=0,
        )
    except FileNotFoundError as error:
        raise CiError(f"{words[0]} is not installed") from error
    with process:
        try:
            said, complained = process.communicate(given, timeout=seconds)
        except BaseException as error:
            _stop(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CiError(f"`{' '.join(words[:3])} …` has not ended after {seconds:g} s") from error
            raise
    return subprocess.CompletedProcess(words, process.returncode, said, complained)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask it to end, and wait until it has: a Terraform that is killed leaves its state locked for ever."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _judge(words: list[str], done: subprocess.CompletedProcess[str], good: Collection[int] = (0,)) -> None:
    if done.returncode not in good:
        said = "\n".join((done.stderr or "").strip().splitlines()[-8:])
        raise CiError(f"`{' '.join(words[:4])} …` ended with {done.returncode}" + (f":\n{said}" if said else ""))
