"""The step, and what the command line calls: bring a release live, go back, look, stop.

What is live is read from the target; the store keeps the releases and what is recorded about them.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from components.progress import say
from components.rollout.config import RolloutConfig
from components.rollout.golden import GoldenCheck
from components.rollout.local import SERVING, Commands, LocalTarget, configuration
from components.rollout.machine import Outcome, Rollout, Step
from components.rollout.target import Observation, TargetError
from components.step_config import InputError, RunSettings
from components.store import Store, link_tree, write_atomically
from serving.release import ReleaseError, read_release, verify_release

ROLLOUT_FILE = "rollout.json"
LIVE_FILE = "live.json"
_ORIGIN = ("run", "run_id", "commit", "at")
"""What a record says about the run that first brought the release live; a return changes none of it."""


def deliver(
    run: RunSettings,
    config: RolloutConfig,
    release: Path,
    champion: Path,
    decision: Path,
    *,
    commands: Commands = SERVING,
) -> dict[str, Any]:
    """Make the release of a run live when its verdict allows it; the content of live.json.

    `release`, `champion` and `decision` are the artifacts of package_release, resolve_champion and the gate.
    Raises InputError when they do not belong together, and what `machine.Rollout.run` raises.
    """
    store = Store(run)
    digest = read_release(release / "release").digest
    expected = _permitted(digest, champion, decision)
    adopt(store, release / "release", digest)
    return _bring(store, config, digest, expected, run, commands)


def live(store: Store, config: RolloutConfig) -> str | None:
    """Digest of the release that is live; None when there is none."""
    return LocalTarget(store, config).live()


def require_port(store: Store, config: RolloutConfig) -> None:
    """Raises TargetError when somebody else holds the public port: better before the training than after it."""
    LocalTarget(store, config).require_port()


def back(
    store: Store, digest: str | None = None, *, service: str | None = None, commands: Commands = SERVING
) -> dict[str, Any]:
    """Return to an earlier release, the one before by default, as every rollout goes; the content of live.json.

    `digest` may be shortened to its first digits. After a return the release that was left is "the one before".
    The release keeps the run and the commit that it came from.
    """
    config = configuration(store, service)
    seen = LocalTarget(store, config, commands=commands).observe()
    wanted = find_release(store, digest) if digest else seen.previous
    if wanted is None:
        raise InputError(f"nothing was live before {seen.live or 'now'}; name the release to go to")
    verify(store, wanted)
    return _bring(store, config, wanted, seen.live, None, commands)


def status(store: Store, service: str | None = None) -> dict[str, Any]:
    """What is served, by which processes, what was served before, and who is changing it."""
    config = configuration(store, service)
    target = LocalTarget(store, config)
    seen, state = target.observe(), target.state()
    instances = _instances(seen)
    for instance in instances:
        server = state.servers.get(instance["digest"])
        instance |= {"pid": server.pid if server else None, "log": server.log if server else None}
    return {
        "service": config.service,
        "target": config.target,
        "url": target.url,
        "live": seen.live,
        "serving": seen.in_force,
        "previous": seen.previous,
        "routed": dict(seen.routed),
        "instances": instances,
        "history": [entry.model_dump() for entry in state.history],
        "held_by": target.held_by(),
    }


def down(store: Store, service: str | None = None) -> list[str]:
    """Stop the front and the servers that rollouts started. What is live is remembered: a rollout starts it again.

    Returns what was stopped, in words. Raises RolloutBusy while a rollout is at work.
    """
    target = LocalTarget(store, configuration(store, service))
    with target.hold():
        return target.stop_all()


def adopt(store: Store, source: Path, digest: str) -> Path:
    """Have a release in the store, whole and verified or not at all; its directory there.

    Raises ReleaseError when the source is not the release that it says.
    """
    verify_release(source)
    place = store.release(digest)
    store.releases.mkdir(parents=True, exist_ok=True)
    with (store.releases / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            try:
                verify_release(place)
                return place
            except ReleaseError as error:
                # A release never changes; what lies here is damaged, and a good copy is at hand.
                say("replaced", step="rollout", release=digest, why=str(error))
        beside, damaged = (place.with_name(f".{place.name}.{what}") for what in ("partial", "damaged"))
        link_tree(source, beside)
        if place.exists():
            shutil.rmtree(damaged, ignore_errors=True)
            place.rename(damaged)
        beside.rename(place)
        shutil.rmtree(damaged, ignore_errors=True)
    return place


def verify(store: Store, digest: str) -> Path:
    """Directory of a release in the store. Raises InputError when it is missing or damaged."""
    place = store.release(digest)
    try:
        found = verify_release(place)
    except ReleaseError as error:
        raise InputError(
            f"release {digest} is damaged or missing: {error}; put its files back, or go to another release with "
            "`slipway rollout back DIGEST`"
        ) from error
    if found.digest != digest:
        raise InputError(f"{place} holds release {found.digest}, not {digest}; put its files back")
    return place


def find_release(store: Store, shortened: str) -> str:
    """Full digest of the one release in the store that begins so."""
    start = shortened.removeprefix("sha256:")
    found = sorted(path.name for path in store.releases.glob(f"{start}*") if path.is_dir()) if start.isalnum() else []
    if len(found) != 1:
        several = f"several releases begin so: {', '.join(found)}" if found else "no such release is in the store"
        raise InputError(f"release {shortened}: {several} ({store.releases})")
    return f"sha256:{found[0]}"


def _permitted(digest: str, champion: Path, decision: Path) -> str | None:
    """What was live when the gate let this release pass. Raises InputError when it did not."""
    verdict = cast("dict[str, Any]", json.loads((decision / "verdict.json").read_bytes()))
    compared = cast("dict[str, Any]", json.loads((champion / "champion.json").read_bytes()))["digest"]
    if verdict["verdict"] != "pass":
        raise InputError(
            f"the verdict is {verdict['verdict']}, not pass: {verdict['reason']}; {digest} is not rolled out"
        )
    if verdict["challenger"] != digest:
        raise InputError(f"the verdict is about {verdict['challenger']}, the release is {digest}; run the gate on it")
    if verdict["champion"] != compared:
        raise InputError(
            f"the gate compared with {verdict['champion'] or 'nothing live'}, the run found {compared or 'nothing'} "
            "live; run the pipeline again"
        )
    return compared


def _bring(
    store: Store, config: RolloutConfig, digest: str, expected: str | None, run: RunSettings | None, commands: Commands
) -> dict[str, Any]:
    """Roll out and record it; `run` is None for a return, which keeps the run that the release came from."""
    origin = _origin(store, digest)
    run_id = run.run_id if run else origin.get("run_id", "")
    target = LocalTarget(store, config, run=run.name if run else "rollout back", run_id=run_id, commands=commands)
    check = GoldenCheck(config.service, config.gap_bound, config.ready_seconds)
    outcome = Rollout(target, digest, expected, store.release, check, _announce).run()
    say("live", step="rollout", action=outcome.action, release=digest, url=outcome.url)
    record = _record(config, outcome, run)
    if outcome.action != "rolled out":
        record["live_since"] = origin.get("live_since", record["live_since"])
    if run is None:
        record |= {key: origin[key] for key in _ORIGIN if key in origin}
    _attest(store, outcome, record)
    return record


def _origin(store: Store, digest: str) -> dict[str, Any]:
    """What is attested about the run that a release came from; {} when nothing is."""
    path = store.attestations(digest) / ROLLOUT_FILE
    return cast("dict[str, Any]", json.loads(path.read_bytes())) if path.exists() else {}


def _record(config: RolloutConfig, outcome: Outcome, run: RunSettings | None) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "digest": outcome.digest,
        "service": config.service,
        "target": config.target,
        "url": outcome.url,
        "action": outcome.action,
        "previous": outcome.previous,
        "run": run.name if run else "",
        "run_id": run.run_id if run else "",
        "commit": run.commit if run else "",
        "at": now,
        "live_since": now,
    }


def _attest(store: Store, outcome: Outcome, record: dict[str, Any]) -> None:
    """Put the record beside the release, unless it says less than the one that is there."""
    path = store.attestations(outcome.digest) / ROLLOUT_FILE
    if outcome.action != "rolled out" and path.exists():
        return
    try:
        write_atomically(path, json.dumps(record, indent=1))
    except OSError as error:
        raise TargetError(
            f"this rollout could not be recorded in {path} ({error}); mend that and repeat it. {outcome.digest} is live"
        ) from error


def _announce(step: Step) -> None:
    words = {"reason": step.reason} if step.reason else {}
    say("rollout", step="rollout", does=step.kind, release=step.digest, **words)


def _instances(seen: Observation) -> list[dict[str, Any]]:
    roles = [("stable", seen.stable), ("candidate", seen.candidate), *(("retired", one) for one in seen.retired)]
    return [
        {"role": role, "digest": one.digest, "state": one.state, "url": one.url, "reason": one.reason}
        for role, one in roles
        if one
    ]
