"""Where a release comes from, read from the release and from what was attested about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.store import Store
from serving.release import read_release


def trace_release(store: Store, digest: str, directory: Path | None = None) -> dict[str, Any]:
    """Release digest, base, data digest, commit, run, scores and verdict; `directory` is the store's by default.

    What was never attested is shown as "unknown", so that a gap in the record is seen.
    """
    release = read_release(directory or store.release(digest))
    rollout = _attested(store, digest, "rollout.json")
    verdict = _attested(store, digest, "verdict.json")
    return {
        "release": digest,
        "serving": release.serving.model_dump(mode="json"),
        "base": release.base.model_dump(mode="json"),
        "data": release.data_digest,
        "commit": rollout.get("commit") or "unknown",
        "run": rollout.get("run_id") or "unknown",
        "live since": rollout.get("live_since", rollout.get("at", "unknown")),
        "scores": verdict.get("metrics", "unknown"),
        "verdict": verdict.get("verdict", "unknown"),
        "reason": verdict.get("reason", "unknown"),
    }


def _attested(store: Store, digest: str, name: str) -> dict[str, Any]:
    path = store.attestations(digest) / name
    return json.loads(path.read_bytes()) if path.is_file() else {}
