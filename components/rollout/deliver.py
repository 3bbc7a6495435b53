"""The step, and what the command line calls: bring a release live, go back, look, stop.

What is live is read from the target; the store keeps the releases and what is recorded about them.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from components.progress import say
from components.rollout.config import RolloutConfig
from components.rollout.decide import Limits
from components.rollout.golden import GoldenCheck
from components.rollout.local import SERVING, Commands, LocalTarget
from components.rollout.machine import Outcome, Plan, Rollout, Step
from components.rollout.target import Observation, Origin, Target, TargetError
from components.rollout.targets import configuration, open_target, release_of, require_local, whole_release
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
    manifest = read_release(release / "release")
    expected = _permitted(manifest.digest, champion, decision)
    adopt(store, release / "release", manifest.digest)
    origin = Origin(run.name, run.run_id, run.commit, manifest.data_digest)
    return _bring(store, config, manifest.digest, expected, origin, commands)


def live(store: Store, config: RolloutConfig) -> str | None:
    """Digest of the release that is live; None when there is none."""
    return open_target(store, config).live()


def refuse_early(store: Store, config: RolloutConfig) -> None:
    """Raises TargetError when a rollout could not even begin: better before the training than after it."""
    open_target(store, config).refuse_early()


def back(
    store: Store, digest: str | None = None, *, asked: RolloutConfig | None = None, commands: Commands = SERVING
) -> dict[str, Any]:
    """Return to an earlier release, the one before by default, as every rollout goes; the content of live.json.

    `digest` may be shortened to its first digits; `asked` is as for targets.configuration. After a return the release
    that was left is "the one before". The release keeps its own settings, and the run and the commit that it came from.
    """
    config = configuration(store, asked)
    target = open_target(store, config, commands=commands)
    seen = target.observe()
    wanted = find_release(store, digest, [entry["digest"] for entry in target.history()]) if digest else seen.previous
    if wanted is None:
        raise InputError(f"nothing was live before {seen.live or 'now'}; name the release to go to")
    own = _at_present(target, wanted, seen.live)
    verify(store, wanted, own)
    return _bring(store, own, wanted, seen.live, _attested_origin(store, wanted), commands, returning=True)


def finish(store: Store, *, asked: RolloutConfig | None = None, commands: Commands = SERVING) -> dict[str, Any] | None:
    """Bring to its end what a rollout has left that died; the content of live.json, None when nothing was left.

    Raises RolloutBusy when it has not died, RolloutFailed when its release was rolled back.
    """
    config = configuration(store, asked)
    seen = open_target(store, config, commands=commands).observe()
    one = seen.candidate or seen.stable
    # a live release without traffic or servers: one that was stopped, or was being made anew
    changing = seen.change and seen.change.begun
    left = seen.candidate or seen.retired or changing or (seen.stable and not (seen.routed and seen.stable.exists))
    if one is None or not left:
        return None
    return _bring(store, config, one.digest, seen.live, one.origin, commands, returning=one is seen.stable)


def status(store: Store, asked: RolloutConfig | None = None) -> dict[str, Any]:
    """What is served, by which servers, what was served before, and who is changing it."""
    config = configuration(store, asked)
    target = open_target(store, config)
    seen = target.observe()
    return {
        "service": config.service,
        "target": config.target,
        "url": target.url,
        "live": seen.live,
        "serving": seen.in_force,
        "previous": seen.previous,
        "state": dict(seen.noted),
        "routed": dict(seen.routed),
        "instances": _instances(seen),
        "history": [dict(entry) for entry in target.history()],
        "held_by": target.held_by(),
    }


def down(store: Store, asked: RolloutConfig | None = None) -> list[str]:
    """Stop the front and the servers that rollouts started. What is live is remembered: a rollout starts it again.

    Returns what was stopped, in words. Raises RolloutBusy while a rollout is at work, InputError for a service on a
    cluster.
    """
    if asked:
        require_local(asked)
    target = LocalTarget(store, configuration(store, asked))
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


def verify(store: Store, digest: str, config: RolloutConfig) -> Path:
    """Directory of a release in the store, or what was published of it where a cluster serves it.

    Raises InputError when it is missing or damaged, TargetError when it was not published.
    """
    place = store.release(digest)
    if config.target == "kserve" and not place.exists():
        return release_of(store, config, digest)
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


def require_whole(store: Store, digest: str, config: RolloutConfig) -> Path:
    """Directory of a live release with all its files; see verify and targets.whole_release."""
    found = whole_release(store, config, digest)
    if found != store.release(digest):
        adopt(store, found, digest)
        shutil.rmtree(found)
    return verify(store, digest, config)


def find_release(store: Store, shortened: str, served: Sequence[str] = ()) -> str:
    """Full digest of the one release that begins so, in the store or among those that were `served`."""
    start = shortened.removeprefix("sha256:")
    stored = [path.name for path in store.releases.glob("*") if path.is_dir() and not path.name.startswith(".")]
    known = {*stored, *(digest.removeprefix("sha256:") for digest in served)}
    found = sorted(name for name in known if name.startswith(start)) if start.isalnum() else []
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
    store: Store,
    config: RolloutConfig,
    digest: str,
    expected: str | None,
    origin: Origin,
    commands: Commands,
    *,
    returning: bool = False,
) -> dict[str, Any]:
    """Roll out and record it; a return keeps what is recorded of the run that the release came from."""
    attested = _attested(store, digest)
    target = open_target(store, config, origin=origin, commands=commands)

    @cache
    def directory(wanted: str) -> Path:
        return release_of(store, config if wanted == digest else target.settings(wanted), wanted)

    outcome = Rollout(
        target,
        digest,
        expected,
        directory,
        GoldenCheck(target.http, config.service, config.gap_bound, config.answer_seconds),
        partial(_announce, config.service),
        plan(config),
        on_the_way=lambda seen: _attest_on_the_way(store, config, target, seen),
    ).run()
    outage = {"outage_seconds": round(outcome.outage_seconds, 1)} if outcome.outage_seconds else {}
    service, url = config.service, outcome.url
    say("live", step="rollout", service=service, action=outcome.action, release=digest, url=url, **outage)
    record = _record(config, outcome, origin) | outage
    if outcome.action != "rolled out":
        record["live_since"] = attested.get("live_since", record["live_since"])
    if returning:
        record |= {key: attested[key] for key in _ORIGIN if key in attested}
    _attest(store, outcome, record)
    return record


def _at_present(target: Target, digest: str, live: str | None) -> RolloutConfig:
    """The settings of a release, at the address where the service is met now."""
    own, now = target.settings(digest), target.settings(live or digest)
    address = {name: getattr(now.kserve, name) for name in ("gateway", "hostname", "route_seconds")}
    return own.model_copy(update={"kserve": own.kserve.model_copy(update=address)})


def plan(config: RolloutConfig) -> Plan:
    """How the settings have a candidate get its traffic."""
    limits = Limits(config.min_requests, config.max_error_rate, config.stage_seconds)
    return Plan(limits, config.strategy, tuple(config.stages))


def _attested(store: Store, digest: str) -> dict[str, Any]:
    """What is recorded about the rollout of a release; {} when nothing is."""
    path = store.attestations(digest) / ROLLOUT_FILE
    return cast("dict[str, Any]", json.loads(path.read_bytes())) if path.exists() else {}


def _attested_origin(store: Store, digest: str) -> Origin:
    attested = _attested(store, digest)
    return Origin(
        attested.get("run", ""),
        attested.get("run_id", ""),
        attested.get("commit", ""),
        attested.get("data_digest", ""),
    )


def _record(config: RolloutConfig, outcome: Outcome, origin: Origin) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "digest": outcome.digest,
        "service": config.service,
        "target": config.target,
        "url": outcome.url,
        "action": outcome.action,
        "previous": outcome.previous,
        "run": origin.run,
        "run_id": origin.run_id,
        "commit": origin.commit,
        "at": now,
        "live_since": now,
    }


def _attest_on_the_way(store: Store, config: RolloutConfig, target: Target, seen: Observation) -> None:
    """Record the release that is live now, whose own rollout died before it could: what its servers tell of it.

    A record that cannot be written holds nothing up; the next rollout tries again.
    """
    one = seen.stable
    if one is None or not one.origin.run_id or _attested(store, one.digest):
        return
    found = Outcome(one.digest, "rolled out", seen.previous, target.url)
    try:
        _attest(store, found, _record(config, found, one.origin))
    except TargetError as error:
        say("not_recorded", step="rollout", release=one.digest, why=str(error))


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


def _announce(service: str, step: Step) -> None:
    share = {"share": step.share} if step.share else {}
    words = {"reason": step.reason} if step.reason else {}
    say("rollout", step="rollout", service=service, does=step.kind, release=step.digest, **share, **words)


def _instances(seen: Observation) -> list[dict[str, Any]]:
    roles = [("stable", seen.stable), ("candidate", seen.candidate), *(("retired", one) for one in seen.retired)]
    return [
        {"role": role, "digest": one.digest, "state": one.state, "url": one.url, "reason": one.reason}
        | {"run_id": one.origin.run_id, "commit": one.origin.commit}
        | dict(one.details)
        for role, one in roles
        if one
    ]
