"""The commands that speak to a pipeline engine: submit, schedule, runs, terminate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from components.step_config import InputError
from pipelines import run_config
from pipelines.placement import DEFAULT_ENGINE, ENGINES, PROFILES

if TYPE_CHECKING:
    from pipelines.submit import PipelineEngine, Run, Schedule, Submission

DONE, FAILED, _, STOPPED_FAIL, STOPPED_INCONCLUSIVE = range(5)
_EXIT = {"pass": DONE, "fail": STOPPED_FAIL, "inconclusive": STOPPED_INCONCLUSIVE}
_ACTIONS = ("list", "delete", "pause", "resume")


def add_commands(commands: Any) -> None:
    """Add the four commands to the command line's subparsers."""
    summary = "start a run on Kubeflow Pipelines or Vertex AI, once per content"
    submit_parser = _command(commands, submit, summary, changes=True)
    _add_run(submit_parser)
    submit_parser.add_argument("--again", action="store_true", help="although a run of the same content has succeeded")
    submit_parser.add_argument("--wait", action="store_true", help="follow the run to its end; exit code by verdict")
    submit_parser.add_argument("--wait-seconds", type=float, default=72 * 3600, help="longest wait; default three days")
    submit_parser.add_argument("--wait-pause", type=float, default=10, help="seconds between two looks; default 10")

    summary = "run regularly: RUN --cron …, list, or delete, pause, resume NAME"
    plan = _command(commands, schedule, summary, changes=True)
    plan.add_argument("what", metavar="RUN|list|delete|pause|resume", help="what to run, or what to do with schedules")
    plan.add_argument("name", nargs="?", metavar="NAME", help="of the schedule; the run file's name by default")
    plan.add_argument("--cron", type=_cron, help="minute hour day month weekday, UTC; six fields begin with seconds")
    plan.add_argument("--profile", choices=list(PROFILES), help="placement profile instead of the run file's")
    plan.set_defaults(refuse=plan.error)

    listing = _command(commands, runs, "the newest runs, with their pages", changes=False)
    listing.add_argument("--limit", type=_count, default=10, help="how many; default 10")
    ending = _command(commands, terminate, "end a run that is at work", changes=True)
    ending.add_argument("run_id", metavar="RUN_ID", help="the run's, as `slipway runs` lists it")


def _command(
    commands: Any, function: Callable[[argparse.Namespace], int], summary: str, *, changes: bool
) -> argparse.ArgumentParser:
    parser = commands.add_parser(function.__name__, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--target", choices=ENGINES, default=DEFAULT_ENGINE, help=f"whose pipelines; default {DEFAULT_ENGINE}"
    )
    if changes:
        parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
    parser.set_defaults(command=function)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_file", metavar="RUN", help="a run file or a bundled one's name")
    parser.add_argument("--profile", choices=list(PROFILES), help="placement profile instead of the run file's")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return int(text)


def _cron(text: str) -> str:
    from pipelines.schedule import read_cron

    try:
        return read_cron(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _connect(options: argparse.Namespace) -> PipelineEngine:
    """The engine that the environment names. Raises EngineError."""
    if options.target == "vertex":
        from pipelines import vertex

        return vertex.connect(vertex.Project.from_environment())
    from pipelines import kubeflow

    return kubeflow.connect(kubeflow.Server.from_environment())


def _prepare(options: argparse.Namespace, run_file: str) -> Submission:
    from pipelines.local_run import current_commit
    from pipelines.submit import look_ahead, prepare

    config = run_config.load(run_file)
    where = str(run_config.find_run_file(run_file))
    profile = options.profile or config.placement
    submission = prepare(config, profile, options.target, current_commit(), run_file=where)
    unseen = look_ahead(config.rollout)
    if unseen:
        print(f"not checked whether the rollout can begin: {unseen}", file=sys.stderr)
    return submission


def _print(options: argparse.Namespace, value: Any, lines: list[str]) -> None:
    """JSON when asked for, else as people read it."""
    print(json.dumps(value, indent=1, ensure_ascii=False) if options.json else "\n".join(lines))


# --- runs ------------------------------------------------------------------------------------------------------


def submit(options: argparse.Namespace) -> int:
    """Exit code 0, or with --wait by the gate's verdict."""
    from pipelines.submit import submit as start

    submission = _prepare(options, options.run_file)
    engine = _connect(options)
    done = start(engine, submission, again=options.again, dry_run=options.dry_run)
    lines = [f"{done.action}: {done.name}"]
    if done.action == "kept" and done.run:
        lines[0] = f"{done.name} has the same content and is {done.run.state}; --again makes another"
    verb = "would create" if options.dry_run else "created"
    lines += [f"  {verb} {thing}" for thing in done.creates]
    lines += [f"  {done.run.link}"] if done.run else []
    value = {**asdict(done), "digest": submission.digest, "pipeline_version": submission.version}
    if not (options.wait and done.run):
        _print(options, value, lines)
        return DONE
    if not options.json:
        print("\n".join(lines))
    return _follow(options, engine, done.run, value)


def _follow(options: argparse.Namespace, engine: PipelineEngine, run: Run, value: dict[str, Any]) -> int:
    from pipelines.submit import follow

    def changed(seen: Run) -> None:
        print(f"{seen.name}: {seen.state}", file=sys.stderr if options.json else sys.stdout, flush=True)

    ending = follow(engine, run.id, seconds=options.wait_seconds, pause=options.wait_pause, changed=changed)
    stopped = ending.run.state == "succeeded"
    value |= {"run": asdict(ending.run), "verdict": ending.verdict, "reason": ending.reason}
    heading = f"verdict: {ending.verdict or 'unknown'}" if stopped else f"the run {ending.run.state}"
    _print(options, value, [heading, ending.reason, f"reports: {ending.run.link}"])
    # without words of the gate it is known at least that it let nothing through
    return _EXIT.get(ending.verdict, STOPPED_FAIL) if stopped else FAILED


def runs(options: argparse.Namespace) -> int:
    """Newest first."""
    found = _connect(options).runs(options.limit)
    lines = [f"{run.created}  {run.state:<10} {run.name}  {run.id}\n  {run.link}" for run in found]
    _print(options, [asdict(run) for run in found], lines or ["no runs"])
    return DONE


def terminate(options: argparse.Namespace) -> int:
    """A run that has ended is left as it is, and said to have."""
    from pipelines.submit import ENDED

    engine = _connect(options)
    run = engine.run(options.run_id)
    action = "had ended" if run.state in ENDED else "would end" if options.dry_run else "ended"
    if action == "ended":
        engine.terminate(run.id)
    said = f" as {run.state}" if action == "had ended" else ""
    _print(options, {"action": action, "run": asdict(run)}, [f"{run.name}: {action}{said}", f"  {run.link}"])
    return DONE


# --- schedules -------------------------------------------------------------------------------------------------


def schedule(options: argparse.Namespace) -> int:
    """`schedule RUN --cron …`, or an action on the schedules that there are."""
    if options.what not in _ACTIONS:
        return _set_schedule(options)
    if options.cron or options.profile:
        options.refuse(f"`schedule {options.what}` takes neither --cron nor --profile; they belong to a run file")
    if options.what == "list":
        return _list_schedules(options, _connect(options))
    if not options.name:
        options.refuse(f"`schedule {options.what}` needs a name; `slipway schedule list` has them")
    return _change_schedules(options, _connect(options))


def _set_schedule(options: argparse.Namespace) -> int:
    from pipelines.schedule import set_schedule

    if not options.cron:
        options.refuse(f"`schedule {options.what}` needs --cron, like --cron '0 3 * * 1' for Mondays at 3 (UTC)")
    submission = _prepare(options, options.what)
    name = options.name or submission.config.run.name
    planned = set_schedule(_connect(options), submission, name, options.cron, dry_run=options.dry_run)
    _print(options, asdict(planned), [planned.action + ":", *_lines(planned.schedule)])
    return DONE


def _list_schedules(options: argparse.Namespace, engine: PipelineEngine) -> int:
    found = engine.schedules()
    lines = [line for one in found for line in _lines(one)]
    _print(options, [asdict(one) for one in found], lines or ["no schedules"])
    return DONE


def _change_schedules(options: argparse.Namespace, engine: PipelineEngine) -> int:
    from pipelines.schedule import find_schedules

    change = {"delete": engine.delete_schedule, "pause": engine.pause, "resume": engine.resume}[options.what]
    found = find_schedules(engine, options.name)
    if not options.dry_run:
        for one in found:
            change(one)
    action = f"would {options.what}" if options.dry_run else {"pause": "paused"}.get(options.what, f"{options.what}d")
    _print(options, {"action": action, "schedules": [asdict(one) for one in found]}, [f"{action}: {options.name}"])
    return DONE


def _lines(schedule: Schedule) -> list[str]:
    state = "on" if schedule.enabled else "paused"
    return [f"{schedule.name}  {schedule.cron}  {state}", *([f"  {schedule.link}"] if schedule.link else [])]
