"""Background processes that outlive the one that starts them, recognised so that no other is ever signalled.

A process id is recycled; a process id together with the moment its process started is not. A record without
an id (its writer was killed between the start and the note) is matched by its exact command line, which
holds a port and a path that no other process of ours has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

_PROJECT = Path(__file__).resolve().parents[2]
_TAIL_BYTES = 16 * 1024
_children: dict[int, subprocess.Popen[bytes]] = {}


def start_mark(pid: int) -> str | None:
    """What tells this process from any other that has or had its id; None when no process runs under it.

    On Linux the boot and the kernel's own start tick, which a clock that is set does not move.
    """
    _reap(pid)
    try:
        if sys.platform != "linux":
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.6f}"
        # Fields 3 (state), 20 (threads) and 22 (start) of stat(5); the second is a name in parentheses that may
        # itself hold spaces. A zombie whose threads are still ending holds its files and its port until they have.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX" and int(fields[17]) <= 1:
            return None
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{fields[19]}"
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
        return None


def start(command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Start a command in a session of its own, its output appended to `log`: process id and start mark.

    Signals of the terminal and the end of this process do not reach it. Raises OSError when it cannot start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=_PROJECT,  # so that `python -m serving` is the code beside this file, installed or not
            env=os.environ | environment,
            start_new_session=True,
        )
    _children[child.pid] = child
    return child.pid, start_mark(child.pid) or "ended at once"


def find(command: list[str]) -> int | None:
    """Id of the process of this user that runs exactly this command line (the interpreter's own path aside)."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.cmdline()[1:] == command[1:] and process.uids().real == os.getuid():
                return process.pid
    return None


def stop(pid: int, mark: str, seconds: float) -> bool:
    """Ask a process to end, and end it after `seconds`. True when it ended by itself, or was gone already."""
    if start_mark(pid) != mark:
        return True
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if _gone_within(pid, mark, seconds):
        return True
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # it leads a session of its own, so its children end with it
    _gone_within(pid, mark, 5)
    return False


def exit_code(pid: int) -> int | None:
    """How a process that this process started has ended; None when it runs, or was started by another."""
    _reap(pid)
    child = _children.get(pid)
    return child.returncode if child else None


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, on one line; at most its last 16 KiB are read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return " | ".join(line.strip() for line in lines[-count:] if line.strip())


def rotate(log: Path, at_bytes: int) -> None:
    """Set a log that has grown too large aside as `<log>.1`, in the place of the one before."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > at_bytes:
            log.replace(log.with_name(f"{log.name}.1"))


def keep_newest(logs: Iterable[Path], count: int) -> None:
    """Remove all but the newest of these logs."""
    for log in sorted(logs, key=lambda path: path.stat().st_mtime_ns, reverse=True)[count:]:
        log.unlink(missing_ok=True)


def _gone_within(pid: int, mark: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while start_mark(pid) == mark:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _reap(pid: int) -> None:
    """Let a child of ours that has ended leave the process table."""
    child = _children.get(pid)
    if child:
        child.poll()
