"""Runs `finetune` through the store for each line that it reads, each in a process of its own that may be killed.

A line is JSON: {"store", "base", "examples", "training", "output", "die_at"?}. `die_at` is a number (the process kills
itself with SIGKILL just before it changes a file for the so-manieth time) or [file name, n] (before it opens a file of
that name for writing for the n-th time). What it prints, besides the step's own events: {"started": process id}, and
{"ended": exit status as os.waitpid gives it, "changes": how many files were changed, when it ran to its end}.

The processes are forked from one that has imported everything and computed nothing, since importing takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
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
        self._directory, self._die_at = directory, die_at
        self.changes = self._opened = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if arguments else ""
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)) if event == "open" else False
        if not (writes or event in _CHANGES) or not path.startswith(self._directory):
            return
        self.changes += 1
        if isinstance(self._die_at, list):
            self._opened += self._die_at[0] in Path(path).name and writes
            last = self._opened == self._die_at[1]
        else:
            last = self.changes == self._die_at
        if last:
            os.kill(os.getpid(), signal.SIGKILL)


def work(order: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    config = TrainingConfig(**order["training"])
    base, examples = Path(order["base"]), Path(order["examples"])
    assassin = Assassin(order["store"], order.get("die_at"))
    sys.addaudithook(assassin)
    Store(RunSettings(name="killed", store=order["store"])).produce(
        "finetune",
        config.model_dump(),
        {"base": base, "examples": examples},
        Path(order["output"]),
        lambda directory: train(config, base, examples, directory) and None,
    )
    print(json.dumps({"changes": assassin.changes}), flush=True)


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
        print(json.dumps({"started": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"ended": status}), flush=True)


if __name__ == "__main__":
    main()
