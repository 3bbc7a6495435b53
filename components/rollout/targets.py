"""Which target a configuration means, and where the releases are that it serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from components.rollout import local
from components.rollout.config import RolloutConfig
from components.rollout.local import SERVING, Commands, LocalTarget
from components.rollout.target import UNKNOWN, Origin, Target, TargetError
from components.step_config import InputError
from components.store import Store

# The cluster's client takes a while to import, and is not installed everywhere: only target "kserve" loads it.


def open_target(
    store: Store, config: RolloutConfig, *, origin: Origin = UNKNOWN, commands: Commands = SERVING
) -> Target:
    """The place where a service is served; `origin` is the run that changes it, `commands` are the local target's."""
    if config.target == "local":
        return LocalTarget(store, config, origin=origin, commands=commands)
    from components.rollout.kserve.target import KServeTarget

    return KServeTarget(config, origin=origin)


def configuration(store: Store, asked: RolloutConfig | None = None) -> RolloutConfig:
    """The configuration that a service was last rolled out with.

    `asked` names the service and says where it is; without it, it is the only local one of the store. Raises
    InputError when there is none.
    """
    if asked is None or asked.target == "local":
        return local.configuration(store, asked.service if asked else None)
    from components.rollout.kserve.client import Cluster
    from components.rollout.kserve.target import recorded_config

    return recorded_config(Cluster.connect(asked.kserve.namespace), asked.service)


def release_of(store: Store, config: RolloutConfig, digest: str) -> Path:
    """Directory with at least the manifest and the golden answers of a release.

    A cluster serves what was published, so a store that never had the release is enough to go back to it. Raises
    TargetError when it is nowhere.
    """
    place = store.release(digest)
    if config.target == "local" or place.is_dir():
        return place
    from components.rollout.kserve.publish import fetch_small

    return fetch_small(config.kserve.releases, digest, store.root / "published" / place.name)


def whole_release(store: Store, config: RolloutConfig, digest: str) -> Path:
    """Directory of a release with all its files, fetched from where it was published when the store never had it.

    Raises TargetError when it cannot be fetched.
    """
    place = store.release(digest)
    if config.target == "local" or place.is_dir():
        return place
    from components.rollout.kserve.objects import release_uri

    uri, fetched = release_uri(config.kserve.releases, digest), store.root / "fetched" / place.name
    # A process of its own, as in a pod: it goes on where an interrupted one ended, and tells how far it is.
    ended = subprocess.run(
        [sys.executable, "-m", "serving.fetch", uri, str(fetched)], stderr=subprocess.PIPE, text=True
    )
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        raise TargetError(f"{digest} is live, not in {store.releases}, and cannot be fetched: {said[-1]}")
    return fetched


def require_local(config: RolloutConfig) -> None:
    """Raises InputError for a service that no command of this machine may end."""
    if config.target == "local":
        return
    delete = f"kubectl -n {config.kserve.namespace} delete httproute,inferenceservice -l slipway.dev/service="
    raise InputError(
        f"{config.service} is served by a cluster; `slipway down` ends processes of this machine only. "
        f"To end the service there: {delete}{config.service}"
    )
