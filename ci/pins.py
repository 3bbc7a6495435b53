"""Which commit of each action the workflows run: .github/actions.lock, looked up in the actions' own tags.

    python -m ci.pins            asks each repository whether the tag still names the locked commit; writes what is new
    python -m ci.pins --newest   moves to the newest released version first
    python -m ci.pins --offline  compares lock and workflows only

A tag that has moved since it was locked is the way in which actions were taken over: it is refused, never followed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ci import job
from ci.commands import ROOT, CiError, ask

LOCK = ROOT / ".github/actions.lock"
WORKFLOWS = ROOT / ".github/workflows"

_USES = re.compile(r"(?P<before>\buses:\s*)(?P<action>[\w.-]+/[\w./-]+)@(?P<ref>[^\s#]+)(?P<comment>[ \t]*#[^\n]*)?")
_RELEASE = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class Pin:
    """One action."""

    version: str
    sha: str
    seen: str
    """Where the commit was looked up."""


def read(text: str) -> dict[str, Pin]:
    """OWNER/NAME -> pin. Raises CiError for an entry that is not one."""
    try:
        pins = {name: Pin(**entry) for name, entry in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CiError(f".github/actions.lock: {error}") from error
    for name, pin in pins.items():
        if not re.fullmatch(r"[0-9a-f]{40}", pin.sha) or not _RELEASE.fullmatch(pin.version):
            raise CiError(f".github/actions.lock: {name}: {pin.version} {pin.sha} is no release with its commit")
    return pins


def write(pins: dict[str, Pin]) -> str:
    return json.dumps({name: vars(pins[name]) for name in sorted(pins)}, indent=2) + "\n"


def tags(action: str) -> dict[str, str]:
    """Release -> commit of an action's repository; an annotated tag's commit, not its own object."""
    told = ask(["git", "ls-remote", "--tags", f"https://github.com/{action}"])
    found: dict[str, str] = {}
    for line in told.splitlines():
        sha, _, ref = line.partition("\t")
        tag = ref.removeprefix("refs/tags/")
        if tag.endswith("^{}") or tag not in found:
            found[tag.removesuffix("^{}")] = sha
    return {tag: sha for tag, sha in found.items() if _RELEASE.fullmatch(tag)}


def newest(releases: dict[str, str]) -> str:
    return max(releases, key=lambda tag: tuple(map(int, _RELEASE.fullmatch(tag).groups())))  # type: ignore[union-attr]


def look_up(action: str, old: Pin | None, *, move: bool) -> Pin:
    """The pin of an action as its repository has it. Raises CiError when a locked tag has moved."""
    releases = tags(action)
    if not releases:
        raise CiError(f"{action}: no release vX.Y.Z among its tags")
    if old and releases.get(old.version) != old.sha:
        now = releases.get(old.version, "gone")
        raise CiError(f"{action}: {old.version} was {old.sha} and is {now} now; find out why before it is used again")
    version = newest(releases) if move or not old else old.version
    return Pin(version, releases[version], f"tag {version} of github.com/{action}")


def used(text: str) -> list[tuple[str, str, str]]:
    """(OWNER/NAME, what follows the @, version in the comment) of each `uses:` in a workflow."""
    return [
        ("/".join(m["action"].split("/")[:2]), m["ref"], (m["comment"] or "").strip(" \t#"))
        for m in _USES.finditer(text)
    ]


def rewrite(text: str, pins: dict[str, Pin]) -> str:
    """A workflow with each action at its pin."""

    def pinned(match: re.Match[str]) -> str:
        pin = pins.get("/".join(match["action"].split("/")[:2]))
        return f"{match['before']}{match['action']}@{pin.sha} # {pin.version}" if pin else match[0]

    return _USES.sub(pinned, text)


def differences(text: str, pins: dict[str, Pin]) -> list[str]:
    """What a workflow says otherwise than the lock."""
    said = []
    for action, ref, comment in used(text):
        pin = pins.get(action)
        if pin is None:
            said.append(f"{action} is not in .github/actions.lock: make pin-actions")
        elif (ref, comment) != (pin.sha, pin.version):
            said.append(f"{action}@{ref} # {comment} is locked as {pin.sha} # {pin.version}: make pin-actions")
    return said


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="ci.pins")
    parser.add_argument("--newest", action="store_true", help="move to each action's newest release")
    parser.add_argument("--offline", action="store_true", help="compare lock and workflows, ask nobody")
    options = parser.parse_args(arguments)
    try:
        return _compare() if options.offline else _pin(move=options.newest)
    except CiError as error:
        return job.fail(error)


def _compare() -> int:
    pins = read(LOCK.read_text())
    said = [f"{path.name}: {line}" for path in _workflows() for line in differences(path.read_text(), pins)]
    print("\n".join(said) or "every action stands at its locked commit")
    return 1 if said else 0


def _pin(*, move: bool) -> int:
    old = read(LOCK.read_text()) if LOCK.exists() else {}
    wanted = {action for path in _workflows() for action, _, _ in used(path.read_text())}
    pins = {action: look_up(action, old.get(action), move=move) for action in sorted(wanted)}
    LOCK.write_text(write(pins))
    for path in _workflows():
        path.write_text(rewrite(path.read_text(), pins))
    for action, pin in pins.items():
        print(f"{action} {pin.version} {pin.sha}" + ("" if old.get(action) == pin else "  (new)"))
    return 0


def _workflows() -> list[Path]:
    return sorted(WORKFLOWS.glob("*.yml"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
