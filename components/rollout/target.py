"""What a rollout needs from the place where it serves: one small interface, and what can be seen there.

A target keeps two roles per service. *Stable* is the release that is live; *candidate* is the one that is
being brought to traffic. Every method is idempotent and may be called again after a crash at any point.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


class TargetError(RuntimeError):
    """The place where it serves did not do what was asked; the message says what to do, and what is live."""


class RolloutBusy(TargetError):
    """Another rollout of the same service is at work; the message says who holds it."""


class ChampionMoved(TargetError):
    """What is live is no longer what the gate compared with."""


class CheckFailed(RuntimeError):
    """A server does not answer as its release must."""


class RolloutFailed(RuntimeError):
    """The release did not go live; the message ends with what is live now."""


@dataclass(frozen=True)
class Instance:
    """One copy of a release as it is seen at its place."""

    digest: str
    state: Literal["starting", "ready", "failed"]
    """"failed" is final: its process or pod is gone, or it was not ready by its deadline."""

    url: str
    """Its own address, which no public traffic uses."""

    reason: str = ""
    """Why it failed, or what it waits for."""


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

    @property
    def live(self) -> str | None:
        """See live_release."""
        stable, candidate = (one.digest if one else None for one in (self.stable, self.candidate))
        return live_release(stable, candidate, self.routed)


def live_release(stable: str | None, candidate: str | None, routed: Mapping[str, int]) -> str | None:
    """The release that answers the public address, or would if its processes ran.

    The switch is the moment when the candidate gets everything, promoted or not.
    """
    return candidate if candidate and set(routed) == {candidate} else stable


class Target(Protocol):
    """A place where one service is served."""

    def hold(self) -> AbstractContextManager[None]:
        """Be the only one who changes the service. Raises RolloutBusy that names the holder."""
        ...

    def observe(self) -> Observation:
        """What is there now."""
        ...

    def apply(self, digest: str, release: Path) -> None:
        """Start serving a release from its directory, without traffic: the candidate, or the stable one again.

        Returns before it is ready. A failed instance of the same release is replaced. Raises TargetError when
        it cannot be started.
        """
        ...

    def route(self, weights: Mapping[str, int]) -> None:
        """Send new requests by these weights (digest -> share of 100), and return when that is in force.

        Requests that run already end where they began. Raises TargetError when it does not come into force.
        """
        ...

    def promote(self, digest: str) -> None:
        """Make the candidate the stable release; the old stable one becomes retired."""
        ...

    def remove(self, digest: str) -> None:
        """Let a release finish the requests that it has begun, then remove it. Raises TargetError when it is routed."""
        ...

    @property
    def url(self) -> str:
        """The public address of the service."""
        ...
