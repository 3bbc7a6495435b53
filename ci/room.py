"""Makes room on a runner of GitHub's: their images bring 30 GB that nothing here uses, and ours take 25 GB to build.

Refuses to run anywhere else: elsewhere these folders are somebody's.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ci import job
from ci.commands import CiError, run

UNUSED = (
    "usr/local/lib/android",
    "usr/share/dotnet",
    "usr/share/swift",
    "usr/local/.ghcup",
    "opt/ghc",
    "opt/hostedtoolcache/CodeQL",
    "usr/local/share/powershell",
)
"""Folders of the runner images (github.com/actions/runner-images, images/ubuntu/scripts/build)."""


def make_room(wanted_gb: int, root: Path = Path("/"), unused: Sequence[str] = UNUSED) -> list[str]:
    """Remove one after the other until so much is free; returns what went. Raises CiError."""
    if os.environ.get("RUNNER_ENVIRONMENT") != "github-hosted":
        raise CiError(
            "make runner-room deletes what a runner of GitHub's brings along, and this is none; make room yourself"
        )
    gone = []
    for name in unused:
        if _free(root) >= wanted_gb:
            break
        if (root / name).is_dir():
            run(["sudo", "rm", "-rf", str(root / name)] if os.geteuid() else ["rm", "-rf", str(root / name)])
            gone.append(name)
    if _free(root) < wanted_gb:
        raise CiError(
            f"{_free(root):.0f} GB are free after {', '.join(gone) or 'nothing'} went, and {wanted_gb} are wanted"
        )
    return gone


def _free(root: Path) -> float:
    return shutil.disk_usage(root).free / 1e9


def main(arguments: list[str]) -> int:
    try:
        gone = make_room(int(arguments[0]) if arguments else 40)
    except CiError as error:
        return job.fail(error)
    print(f"{_free(Path('/')):.0f} GB are free; removed: {', '.join(gone) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
