"""Recurring runs: one of a name, made anew only when what it runs or when has changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from components.step_config import InputError
from components.store import sha256_json
from pipelines.submit import PipelineEngine, Schedule, Submission

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ("", *_MONTHS)),
    ("day of the week", 0, 6, _DAYS),
)
"""(name, lowest, highest, words: the position is the number) of each field."""

_PART = re.compile(r"(?P<first>\*|\?|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?")


def read_cron(text: str) -> str:
    """Six fields, seconds first. Five get a leading 0: Kubeflow would take their minute for a second.

    Raises InputError that names the field (kubeflow/pipelines reads it with github.com/robfig/cron v1, for which
    five fields are six without the day of the week).
    """
    fields = text.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        shape = "minute hour day month weekday, with seconds before them where they matter"
        raise InputError(f"{text!r} has {len(fields)} fields; write five or six ({shape}), like '0 3 * * 1'")
    for value, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        for part in value.split(","):
            if not _is_valid(part, low, high, words):
                known = f" or {', '.join(word for word in words if word)}" if words else ""
                raise InputError(f"{text!r}: the {name} {part!r} must lie in {low} to {high}{known}")
    return " ".join(fields)


def _is_valid(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    """Whether a field's part is *, a number or word, or a range, each with a step if wanted."""
    match = _PART.fullmatch(part)
    if not match or match["step"] == "0":
        return False
    if match["first"] in ("*", "?"):
        return match["last"] is None
    ends = [_number(end, words) for end in (match["first"], match["last"] or match["first"])]
    return low <= ends[0] <= ends[1] <= high


def _number(text: str, words: tuple[str, ...]) -> int:
    """A number or a word's place; -1 for anything else."""
    if text.isascii() and text.isdigit():
        return int(text)
    return words.index(text.lower()) if text.lower() in words else -1


@dataclass(frozen=True)
class Planned:
    """What `set_schedule` did, or with dry_run would do."""

    action: str
    """"created", "kept", "replaced", "would create", "would replace"."""

    schedule: Schedule


def set_schedule(
    engine: PipelineEngine, submission: Submission, name: str, cron: str, *, dry_run: bool = False
) -> Planned:
    """Have one schedule of this name that runs this content at these times (`cron` as read_cron gives it).

    There is no call that changes one. The new one is made before the old one goes, and starts to count after it: a
    death in between leaves no gap and no run twice, and the same command clears up. One that was paused stays paused.
    """
    digest = sha256_json({"content": submission.digest, "cron": cron})[:12]
    found = [schedule for schedule in engine.schedules() if schedule.name == name]
    same = [schedule for schedule in found if schedule.digest == digest]
    if len(found) == 1 and same:
        return Planned("kept", same[0])
    # a copy that a death left behind is paused because it never began, so the older one knows what was wanted
    enabled = not found or any(schedule.enabled for schedule in found)
    verb = "replace" if found else "create"
    if dry_run:
        return Planned(f"would {verb}", Schedule("", name, cron, enabled, digest, ""))
    schedule = same[0] if same else engine.create_schedule(submission, name, cron, digest, enabled=not found)
    for old in found:
        if old.id != schedule.id:
            engine.delete_schedule(old)
    if enabled and not schedule.enabled:
        engine.resume(schedule)
    return Planned(f"{verb}d", replace(schedule, enabled=enabled))


def find_schedules(engine: PipelineEngine, name: str) -> list[Schedule]:
    """Those of a name; more than one only after a death. Raises InputError with the names that there are."""
    known = engine.schedules()
    found = [schedule for schedule in known if schedule.name == name]
    if not found:
        names = ", ".join(sorted({schedule.name for schedule in known})) or "none"
        raise InputError(f"no schedule {name!r}; there are: {names}")
    return found
