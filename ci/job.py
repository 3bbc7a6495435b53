"""What GitHub tells a job, and what a job tells GitHub.

python -m ci.job settings   who the job signs in as: SETTINGS and ACCOUNT to the outputs `provider` and `account`
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ci.commands import CiError


def value(name: str, what: str) -> str:
    """A variable that the workflow sets; `what` says what it is. Raises CiError."""
    found = os.environ.get(name, "").strip()
    if not found:
        raise CiError(f"{name} is not set: {what}")
    return found


def settings() -> dict[str, Any]:
    """SETTINGS: what environments/github told of this environment (`terraform output -json settings`).

    Raises CiError that says how the variable is set.
    """
    text = value(
        "SETTINGS",
        'gh variable set SLIPWAY_DEV --body "$(terraform -chdir=terraform/environments/github output -json settings)" '
        "(or SLIPWAY_PROD …)",
    )
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CiError(f"SETTINGS is no JSON ({error}); it is `terraform output -json settings` as it stands") from error
    if not isinstance(found, dict):
        raise CiError(
            f"SETTINGS is {text[:40]!r}, no object: it is `terraform output -json settings` of environments/github"
        )
    return found


def setting(name: str) -> str:
    """One of them. Raises CiError."""
    found = settings().get(name)
    if not isinstance(found, str) or not found:
        told = "`terraform output -json settings` of environments/github"
        raise CiError(f"SETTINGS has no {name}: set the variable anew from {told}")
    return found


def output(name: str, text: str) -> None:
    """Tell later steps and jobs a value; printed where there is no GitHub."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise CiError(f"{name!r} is no name of a variable")
    path = os.environ.get("GITHUB_OUTPUT")
    if not path:
        print(f"{name}={text}")
        return
    # a delimiter that no text can know, so that a text cannot write a second variable
    end = f"end-{secrets.token_hex(16)}"
    with Path(path).open("a", encoding="utf-8") as written:
        written.write(f"{name}<<{end}\n{text}\n{end}\n")


def summary(markdown: str) -> None:
    """Show on the run's page; printed where there is no GitHub."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        with Path(path).open("a", encoding="utf-8") as written:
            written.write(markdown.rstrip() + "\n\n")
    print(markdown)


def mask(secret: str) -> None:
    """Keep a secret out of the log. Nothing is printed where no one would take it for a command."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in secret.splitlines():
            print(f"::add-mask::{line}", flush=True)


def carry_out(module: str, commands: Mapping[str, Callable[[], object]], arguments: Sequence[str]) -> int:
    """Run the one command that is named; the exit code: 0, 1 with the reason of its CiError, 2 for wrong usage."""
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m {module} {'|'.join(commands)}", file=sys.stderr)
        return 2
    before = {number: signal.signal(number, _end) for number in _ENDING}
    try:
        commands[arguments[0]]()
    except CiError as error:
        return fail(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


_ENDING = (signal.SIGINT, signal.SIGTERM)
"""GitHub sends the first to a job that is cancelled, the second 7.5 seconds later, and kills it after 2.5 more."""


def _end(number: int, _: object) -> None:
    """As an exception a signal passes through what cleans up, which the next one must not cut short."""
    for each in _ENDING:
        signal.signal(each, lambda *_: None)  # unlike SIG_IGN, not handed on to the programs that clean up
    raise CiError(f"ended by signal {signal.Signals(number).name}")


def fail(error: Exception) -> int:
    """Say why a job ends; the exit code."""
    text = str(error)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        print(f"::error::{escaped}", flush=True)
    else:
        print(text, file=sys.stderr)
    return 1


def fenced(text: str, language: str = "") -> str:
    """Text as Markdown shows it letter by letter: the fence is longer than any in the text."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall(r"`{3,}", text))])
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def sign_in() -> None:
    """Tell google-github-actions/auth who this job is. Raises CiError that says how the variable is set."""
    key = value("ACCOUNT", "release, plan, submit, preview or apply (terraform/environments/github/main.tf)")
    accounts = settings().get("service_accounts") or {}
    if key not in accounts:
        raise CiError(f"SETTINGS has no account {key!r}, only {', '.join(sorted(accounts)) or 'none'}")
    output("provider", setting("workload_identity_provider"))
    output("account", accounts[key])


def main(arguments: list[str]) -> int:
    return carry_out("ci.job", {"settings": sign_in}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
