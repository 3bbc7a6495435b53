"""One rollout as a process of its own, so that it can be killed: `python -m tests.cluster.rolling SPEC`.

SPEC is JSON: the settings of run and rollout, and the three artifacts. Its standard output is the rollout's own, and
at the end one line {"event": "ended", "error": WORDS or null}.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from components.progress import say
from components.rollout import deliver
from components.rollout.config import RolloutConfig
from components.rollout.target import RolloutFailed, TargetError
from components.step_config import RunSettings
from tests.cluster.place import ROOT
from tests.cluster.service import Service


class Rolling:
    """The process, and the lines that it has written."""

    def __init__(self, service: Service, artifact: Path, **changes: Any):
        release, champion, decision = service.artifacts(artifact)
        spec = {
            "run": service.run.model_dump(mode="json"),
            "rollout": service.config_with(**changes).model_dump(mode="json"),
            "artifacts": [str(release), str(champion), str(decision)],
        }
        path = service.root / "spec.json"
        path.write_text(json.dumps(spec))
        command = [sys.executable, "-m", "tests.cluster.rolling", str(path)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self._read = threading.Thread(target=self._follow, daemon=True)
        self._read.start()

    def steps(self) -> list[str]:
        """What it has announced: "apply", "open 10", "watch 10", "watch 10 passed", …"""
        told = [event for event in list(self.events) if event["event"] == "rollout"]
        words = [(event["does"], event.get("share"), *re.findall("^passed", event.get("reason", ""))) for event in told]
        return [" ".join(str(word) for word in some if word) for some in words]

    def kill_at_another_than(self, steps: Collection[str], after: float) -> str | None:
        """SIGKILL so many seconds after it announced a step that is none of these; that step, None when it ended."""
        while not (others := [step for step in self.steps() if step not in steps]) and self.process.poll() is None:
            time.sleep(0.01)
        time.sleep(after)
        self.process.kill()
        self.process.wait()
        self._read.join()
        return others[0] if others and self.ended is None else None

    def wait(self, seconds: float) -> str | None:
        """Its end: None when the release is live, else why not."""
        self.process.wait(seconds)
        self._read.join()
        assert self.ended, f"the process ended without a word, with code {self.process.returncode}"
        return self.ended["error"]

    @property
    def ended(self) -> dict[str, Any] | None:
        return next((event for event in self.events if event["event"] == "ended"), None)

    def _follow(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))


def main() -> None:
    """Roll out as `slipway run` does."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    run, config = RunSettings(**spec["run"]), RolloutConfig(**spec["rollout"])
    error = None
    try:
        deliver.deliver(run, config, *(Path(path) for path in spec["artifacts"]))
    except (RolloutFailed, TargetError) as failure:
        error = str(failure)
    say("ended", error=error)


if __name__ == "__main__":
    main()
