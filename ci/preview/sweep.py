"""Finds previews that outlived their jobs, by label or state and by age, and destroys them.

What is older than all jobs of a preview together can take (.github/workflows/preview.yml) is nobody's any more, and
neither is a lock on its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ci.commands import CiError
from ci.preview.cloud_run import PREFIX
from ci.preview.preview import Clock, Target, destroy

OLDEST = timedelta(minutes=75)
"""On Cloud Run."""

OLDEST_CLUSTER = timedelta(hours=4)
"""On GKE: the whole platform takes half an hour to make, and as long to destroy."""


@dataclass(frozen=True)
class Left:
    """One that should not be there any more."""

    name: str
    minutes: int


def left_services(listed: Iterable[dict[str, Any]], now: datetime, oldest: timedelta = OLDEST) -> list[Left]:
    """Among Cloud Run's services, the previews that are too old; whatever is named otherwise is not ours to end."""
    found = []
    for service in listed:
        metadata = service["metadata"]
        labels = metadata.get("labels", {})
        ours = labels.get("app") == "slipway" and labels.get("environment") == "demo"
        if ours and metadata["name"].startswith(PREFIX):
            found.append((metadata["name"], metadata["creationTimestamp"]))
    return _old(found, now, oldest)


def left_clusters(listed: Iterable[dict[str, Any]], now: datetime, oldest: timedelta = OLDEST_CLUSTER) -> list[Left]:
    """Among GKE's clusters, those of the environment `ephemeral` that are too old."""
    found = [(one["name"], one["createTime"]) for one in listed if _ephemeral(one.get("resourceLabels", {}))]
    return _old(found, now, oldest)


def left_state(changed: str, now: datetime, oldest: timedelta = OLDEST_CLUSTER) -> list[Left]:
    """The state of `ephemeral` that still holds something and was long not written: its cluster may be gone."""
    return _old([("the rest of ephemeral", changed)] if changed else [], now, oldest)


def _ephemeral(labels: dict[str, str]) -> bool:
    return labels.get("app") == "slipway" and labels.get("environment") == "ephemeral"


def _old(found: Iterable[tuple[str, str]], now: datetime, oldest: timedelta) -> list[Left]:
    ages = [(name, now - datetime.fromisoformat(created.replace("Z", "+00:00"))) for name, created in found]
    return [Left(name, int(age.total_seconds() // 60)) for name, age in sorted(ages) if age > oldest]


def sweep(left: Iterable[Left], target: Callable[[str], Target], clock: Clock) -> list[str]:
    """Destroy each, although one before it failed; returns what was done. Raises CiError when something stays."""
    done, failed = [], []
    for one in left:
        try:
            destroy(target(one.name), clock)
            done.append(f"{one.name}: {one.minutes} minutes old, destroyed")
        except CiError as error:
            failed.append(f"{one.name}: {one.minutes} minutes old: {error}")
    if failed:
        raise CiError("\n".join([*done, *failed]))
    return done
