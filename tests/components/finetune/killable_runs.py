"""Runs `finetune` through the store for each line that it reads, each in a process of its own that may be killed.

A line is JSON: {"store", "base", "examples", "training", "output", "die_at"?, "kill_after_seconds"?}. `die_at` is a
number (the process kills itself with SIGKILL just before it changes a file for the so-manieth time) or [file name, n]
(before it opens a file of that name for writing for the n-th time). What it prints, besides the step's own events:
{"ended": exit status as os.waitpid gives it}.

The processes are forked from one that has imported everything and computed nothing, since importing takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401  # imported once, here
import peft  # noqa: F401
import torch

from components.finetune.config import TrainingConfig
from components.finetune.train import train
from components.step_config import RunSettings
from components.store import Store

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


class Assassin:
    """An audit hook that counts changes below a directory and kills the process before a chosen one."""

    def __init__(self, directory: str, die_at: int | list[Any] | None):
        self._directory = directory
        self._name, self._last = die_at if isinstance(die_at, list) else ("", die_at)
        self._count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not writes and (self._name or event not in _CHANGES):
            return
        path = str(arguments[0])
        if path.startswith(self._directory) and self._name in Path(path).name:
            self._count += 1
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def work(order: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    config = TrainingConfig(**order["training"])
    base, examples = Path(order["base"]), Path(order["examples"])
    sys.addaudithook(Assassin(order["store"], order.get("die_at")))
    Store(RunSettings(name="killed", store=order["store"])).produce(
        "finetune",
        config.model_dump(),
        {"base": base, "examples": examples},
        Path(order["output"]),
        lambda directory: train(config, base, examples, directory) and None,
    )


def wait(child: int, seconds: float | None) -> int:
    """Exit status of the child, which is killed when it has not ended by itself after so many seconds."""
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # it was not waited for, so its id is still its own
    return os.waitpid(child, 0)[1]


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(json.dumps({"ended": wait(child, json.loads(line).get("kill_after_seconds"))}), flush=True)


if __name__ == "__main__":
    main()
