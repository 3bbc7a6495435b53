"""Findings that are accepted for a while: .trivyignore."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

FILE = Path(__file__).parent.parent / ".trivyignore"

LONGEST = timedelta(days=90)
"""What is accepted for longer is not looked at again."""

_WORDS = 5


def problems(text: str, today: date) -> list[str]:
    """What is wrong with the file: lines without a date or reason, and those whose time is over or too long."""
    said, reason = [], ""
    for line in text.splitlines():
        if line.startswith("#"):
            reason = f"{reason} {line.lstrip('# ')}"
            continue
        if line.strip():
            said += [f"{line}: {problem}" for problem in _of_line(line, reason, today)]
        # a reason counts for the lines right beneath it
        reason = reason if line.strip() else ""
    return said


def _of_line(line: str, reason: str, today: date) -> list[str]:
    found = re.fullmatch(r"([A-Za-z]+-[\w-]+) exp:(\d{4}-\d{2}-\d{2})", line.strip())
    if not found:
        return ["is not `CVE-… exp:YYYY-MM-DD`"]
    try:
        until = date.fromisoformat(found[2])
    except ValueError:
        return [f"{found[2]} is no date"]
    said = [f"has expired on {until}: mend it, or decide anew"] if until < today else []
    said += [f"is accepted for more than {LONGEST.days} days"] if until > today + LONGEST else []
    return said + ([] if len(reason.split()) >= _WORDS else ["says no reason in the comment above it"])
