"""What comes by in the cluster and brings to its end what a rollout has left whose process died."""

from __future__ import annotations

from typing import Any

from components.rollout.deliver import finish
from components.rollout.kserve.client import Cluster
from components.rollout.kserve.objects import Record
from components.rollout.kserve.target import UNREADABLE, KServeTarget, record_name, services
from components.rollout.target import ChampionMoved, RolloutBusy, RolloutFailed, TargetError, read_config
from components.step_config import InputError
from components.store import Store
from serving.release import ReleaseError


def run(store: Store, namespace: str) -> list[dict[str, Any]]:
    """Look at every service of a namespace; what was done about each: `service`, `did`, `why`.

    A rollout whose lock is held is left alone. One that died goes on from where it was, and is rolled back where that
    fails. `did` is "nothing", "finished", "rolled back" or "failed"; one that fails holds up no other.
    """
    cluster = Cluster.connect(namespace)
    return [_tend(store, cluster, service, record) for service, record in sorted(services(cluster).items())]


def _tend(store: Store, cluster: Cluster, service: str, record: Record) -> dict[str, Any]:
    def told(did: str, why: str) -> dict[str, Any]:
        return {"service": service, "did": did, "why": why}

    if record.state == UNREADABLE:
        return told("failed", record.reason)
    if not record.latest_config:
        return told("nothing", "no rollout has begun")
    try:
        config = read_config(record.latest_config, record_name(service))
        holder = KServeTarget(config, cluster=cluster).held_by()
        if holder:
            return told("nothing", f"process {holder['pid']} on {holder['host']} is at work since {holder['since']}")
        live = finish(store, asked=config)
    except RolloutBusy as error:
        return told("nothing", str(error))
    except (RolloutFailed, ChampionMoved) as error:
        return told("rolled back", str(error))
    except (TargetError, InputError, ReleaseError, OSError) as error:
        return told("failed", str(error))
    return told("finished", f"{live['digest']} is live") if live else told("nothing", "nothing was left")
