"""What a rollout needs from the place where it serves: one small interface, and what can be seen there.

A target keeps two roles per service. *Stable* is the release that is live; *candidate* is the one that is
being brought to traffic. Every method is idempotent and may be called again after a crash at any point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx
from pydantic import ValidationError

from components.rollout.config import RolloutConfig


class TargetError(RuntimeError):
    """The place where it serves did not do what was asked; the message says what to do, and what is live."""


class NoAddress(TargetError):
    """The place where releases are met is not there: what is live there is out of its users' reach already."""


class RolloutBusy(TargetError):
    """Another rollout of the same service is at work; the message says who holds it."""


class LockLost(TargetError):
    """The service is no longer held, and another rollout may be at work: whoever sees this changes nothing more."""


class ChampionMoved(TargetError):
    """What is live is no longer what the gate compared with."""


class CheckFailed(RuntimeError):
    """A server does not answer as its release must, or cannot be seen to."""


class RolloutFailed(RuntimeError):
    """The release did not go live; the message ends with what is live now."""


@dataclass(frozen=True)
class Origin:
    """The run that brought a release to its place; what is not known is empty."""

    run: str = ""
    run_id: str = ""
    commit: str = ""
    data_digest: str = ""


UNKNOWN = Origin()


@dataclass(frozen=True)
class Instance:
    """One copy of a release as it is seen at its place."""

    digest: str
    state: Literal["starting", "ready", "failed", "stopped"]
    """"failed" is final: its process or pod is gone, or it was not ready by its deadline. "stopped" is so by intent."""

    url: str
    """Its own address, which no public traffic uses; what `Target.http` opens."""

    reason: str = ""
    """Why it failed, or what it waits for."""

    origin: Origin = UNKNOWN
    """The run whose rollout started it."""

    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a reader of the status wants to know of its servers (process and log, pods and restarts)."""

    exists: bool = True
    """False when nothing of it is there: it was never made, or somebody has taken it away."""


@dataclass(frozen=True)
class Change:
    """How the settings that a rollout asks for differ from those by which the stable release serves."""

    words: str
    """Each with both values; "" when there are none left, and a change that was begun is to be taken back."""

    begun: bool = False
    """A rollout has begun to change them, and not recorded that it is done."""

    outage: bool = False
    """Its servers end before others start, since there is no room for both."""


@dataclass(frozen=True)
class Observation:
    """Everything that the next step is computed from."""

    stable: Instance | None
    candidate: Instance | None
    retired: tuple[Instance, ...] = ()
    """Releases that were replaced and are not removed yet."""

    routed: Mapping[str, int] = field(default_factory=dict[str, int])
    """Release digest -> weight in the route; who gets nothing is not listed."""

    in_force: bool = False
    """The public address is up and sends requests by `routed` to the instances as they are now."""

    previous: str | None = None
    """The release that was live before the stable one."""

    rejected: str = ""
    """Why the candidate was rejected, see Target.reject; "" when it was not."""

    noted: Mapping[str, str] = field(default_factory=dict[str, str])
    """What `Target.note` wrote last: `state`, `reason`, `since`."""

    change: Change | None = None
    """None where the settings of the stable release are those that are asked for."""

    @property
    def live(self) -> str | None:
        """See live_release."""
        stable, candidate = (one.digest if one else None for one in (self.stable, self.candidate))
        return live_release(stable, candidate, self.routed)


@dataclass(frozen=True)
class Traffic:
    """What servers have answered since they started; see traffic.count."""

    requests: int = 0
    errors: int = 0


def live_release(stable: str | None, candidate: str | None, routed: Mapping[str, int]) -> str | None:
    """The release that answers the public address, or would if its processes ran.

    The switch is the moment when the candidate gets everything, promoted or not.
    """
    return candidate if candidate and set(routed) == {candidate} else stable


def read_config(recorded: Mapping[str, Any], where: str) -> RolloutConfig:
    """The settings of a service's last rollout, as it wrote them down.

    Raises TargetError when they are none of this Slipway's; `where` names the place for people.
    """
    try:
        return RolloutConfig.model_validate(recorded)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise TargetError(
            f"{where} is not valid for this Slipway ({f'{key}: ' if key else ''}{first['msg']}); use the version "
            "that rolled out last, or roll out with this one, which writes it anew"
        ) from error


class Target(Protocol):
    """A place where one service is served."""

    def hold(self) -> AbstractContextManager[None]:
        """Be the only one who changes the service. Raises RolloutBusy that names the holder.

        Every other method may raise LockLost while it is held.
        """
        ...

    # ------------------------------------------------------------------------------------------- looking

    def observe(self) -> Observation:
        """What is there now."""
        ...

    def traffic(self) -> Mapping[str, Mapping[str, Traffic]]:
        """Release digest -> each server, by a name that it keeps -> its count; releases without one are left out.

        Raises TargetError when a server that is there cannot be read: half a count is none.
        """
        ...

    def http(self, url: str, seconds: float) -> httpx.Client:
        """A client whose base is an instance's own address or the public one; it waits so long for an answer.

        The base may have a path of its own: ask for `v1/…` and `health`, without a leading slash, or with one (httpx
        appends both).
        """
        ...

    def wait(self, seconds: float) -> None:
        """Return when something may have changed, at the latest after `seconds`."""
        ...

    # ------------------------------------------------------------------------------------------ changing

    def apply(self, digest: str, release: Path) -> None:
        """Start serving a release from its directory, without traffic: the candidate, or the stable one again.

        Returns before it is ready. A failed instance of the same release is replaced. Raises TargetError when
        it cannot be started.
        """
        ...

    def route(self, weights: Mapping[str, int]) -> None:
        """Send new requests by these weights (digest -> share of 100), and return when that is in force.

        Without weights the address answers that nothing is served. Requests that run already end where they began.
        Raises TargetError when it does not come into force.
        """
        ...

    def promote(self, digest: str) -> None:
        """Make the candidate the stable release; the old stable one becomes retired."""
        ...

    def reject(self, digest: str, why: str) -> None:
        """Write down that the candidate is to go, so that whoever comes next takes it out and never brings it live.

        It holds until that release is removed or applied anew; of a release that is no candidate it says nothing.
        """
        ...

    def change(self, digest: str, release: Path, check: Callable[[], None]) -> None:
        """Have the stable release serve by the settings that are asked for, and record them once `check` is content.

        Returns when it does. Whatever it raises, `restore` takes back what was done.
        """
        ...

    def restore(self, digest: str) -> None:
        """Have the stable release serve by its recorded settings again, and return when it does.

        Raises TargetError when it does not become ready by them. Nothing happens where no change was begun.
        """
        ...

    def stop(self, digest: str) -> None:
        """Let the stable release finish its requests, then end its servers; it stays stable, and `apply` starts it.

        Returns when they are gone, so that what they held is free. Raises TargetError when it is routed.
        """
        ...

    def remove(self, digest: str) -> None:
        """Let a release finish the requests that it has begun, then remove it. Raises TargetError when it is routed."""
        ...

    def note(self, state: str, reason: str = "") -> None:
        """Make a transition readable at the place, for people: "watching 10 %", say, and why. Nothing depends on it.

        It may be called before anything of the service is there.
        """
        ...

    # ------------------------------------------------------------------------------------- for the readers

    @property
    def url(self) -> str:
        """The public address of the service."""
        ...

    def live(self) -> str | None:
        """Digest of what is live, by what is written down alone: no server is asked."""
        ...

    def held_by(self) -> Mapping[str, Any] | None:
        """Who changes the service now, and since when; None when nobody does."""
        ...

    def history(self) -> Sequence[Mapping[str, str]]:
        """What went live: `digest`, `since`, `run_id`; oldest first, the last is live."""
        ...

    def settings(self, digest: str) -> RolloutConfig:
        """The settings of a release that is live, on its way, or was live; this rollout's where none are recorded."""
        ...

    def refuse_early(self) -> None:
        """Raises TargetError when a rollout could not even begin: better before the training than after it."""
        ...
