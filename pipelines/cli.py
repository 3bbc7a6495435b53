"""The command line: each command parses, calls one function of the part that owns the matter, and prints."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from components.rollout.config import KServeConfig, RolloutConfig
from components.step_config import ForcedStep, InputError, RunSettings
from components.store import Store
from pipelines import kubeflow_cli, run_config
from pipelines.console import show_events
from pipelines.placement import DEFAULT_ENGINE, ENGINES, PROFILES
from pipelines.platform_parts import ENVIRONMENTS

DONE, FAILED, WRONG_USAGE, STOPPED_FAIL, STOPPED_INCONCLUSIVE = range(5)
_EXIT = {"pass": DONE, "fail": STOPPED_FAIL, "inconclusive": STOPPED_INCONCLUSIVE}
_RUN_HELP = "a run file or a bundled one's name; default laptop"
_DIGEST = re.compile(r"(sha256:)?[0-9a-f]+")
"""A release's, or its beginning."""

_SCREEN = Console(soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 wrong usage, 3 gate said fail, 4 inconclusive."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except run_config.RunFileError as error:
        print(error, file=sys.stderr)
        return WRONG_USAGE
    except _expected_errors() as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _expected_errors() -> tuple[type[Exception], ...]:
    """What is shown as one line; anything else is a bug, and its traceback is wanted."""
    from components.rollout.target import RolloutFailed, TargetError
    from serving.release import ReleaseError

    return (InputError, TargetError, RolloutFailed, ReleaseError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slipway", description="From a dataset to a gated, live LLM on Kubeflow.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    examined = _command(commands, doctor, "what this machine, or a cluster, lacks", run_file=True)
    examined.add_argument("--cluster", action="store_true", help="the cluster of KUBECONFIG, part by part")
    examined.add_argument("--environment", choices=ENVIRONMENTS, help="which one it is, where the cluster does not say")
    _command(commands, validate, "check a run file, without running anything", run_file=True)
    run = _command(commands, run_pipeline, "run the pipeline on this machine", name="run", run_file=True, target=True)
    run.add_argument(
        "--force",
        nargs="?",
        const="all",
        action="append",
        type=_forced_step,
        metavar="STEP",
        help="execute a step again although its result is in the store: --force=STEP, or RUN first; without STEP all "
        f"({', '.join(get_args(ForcedStep)[1:])})",
    )
    compiled = _command(commands, compile_, "compile the pipeline to YAML", name="compile", run_file=True)
    compiled.add_argument("--profile", help=f"placement instead of the run file's: {', '.join(PROFILES)}")
    compiled.add_argument("--output", type=Path, required=True, metavar="FILE", help="the YAML to write")
    compiled.add_argument("--target", choices=ENGINES, default=DEFAULT_ENGINE, help="the engine that will run it")
    rollout = commands.add_parser("rollout", help="what is live, and going back").add_subparsers(
        required=True, metavar="ACTION"
    )
    seen = _command(rollout, rollout_status, "what is served, and how", name="status", run_file=True, target=True)
    seen.add_argument("--follow", action="store_true", help="draw it again every second, until Ctrl-C")
    seen.set_defaults(refuse=seen.error)
    back = _command(rollout, rollout_back, "return to an earlier release", name="back", run_file=False, target=True)
    back.add_argument("digest", nargs="?", help="the release; the previous one by default (a unique prefix is enough)")
    _add_run_option(back)
    back.set_defaults(refuse=back.error)
    summary = "finish or undo what rollouts have left in a cluster whose process died"
    janitor = _command(rollout, rollout_janitor, summary, name="janitor", run_file=False)
    janitor.add_argument("--namespace", default=KServeConfig().namespace, help="of the InferenceServices")
    janitor.add_argument("--store", default=RunSettings.model_fields["store"].default, help="where it is recorded")
    _command(commands, serve, "start what is live again, after a restart of the machine", run_file=True, target=True)
    talk = commands.add_parser("chat", help="talk to what is live, here in the terminal")
    talk.add_argument("run_file", nargs="?", default="laptop", metavar="RUN", help=_RUN_HELP)
    _add_target_option(talk)
    talk.set_defaults(command=chat)
    _command(commands, report, "paths of the last run's reports", run_file=True)
    _command(commands, trace, "where the live model comes from", run_file=True, target=True)
    stop = _command(commands, down, "stop servers; what is live is remembered", run_file=False)
    stop.add_argument("run_file", nargs="?", metavar="RUN", help="whose server; without it every one started from here")
    kubeflow_cli.add_commands(commands)
    return parser


def _command(
    commands: Any,
    function: Callable[[argparse.Namespace], int],
    summary: str,
    *,
    name: str = "",
    run_file: bool,
    target: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name or function.__name__, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print JSON")
    if run_file:
        parser.add_argument("run_file", nargs="?", default="laptop", metavar="RUN", help=_RUN_HELP)
    if target:
        _add_target_option(parser)
    parser.set_defaults(command=function, target=None)
    return parser


def _forced_step(text: str) -> str:
    steps = get_args(ForcedStep)
    if text in steps:
        return text
    run_first = (
        f"; for the run file, write it first: `slipway run {text} --force`" if run_config.is_run_file(text) else ""
    )
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(steps)}{run_first}")


def _add_target_option(parser: argparse.ArgumentParser) -> None:
    targets = get_args(RolloutConfig.model_fields["target"].annotation)
    parser.add_argument(
        "--target", choices=targets, help="where it is served, instead of the run file's rollout.target"
    )


def _add_run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", dest="run_file", default="laptop", metavar="RUN", help="whose service; default laptop")


def _print(options: argparse.Namespace, value: Any, draw: Callable[[], None]) -> None:
    """JSON when asked for, else as people read it."""
    if options.json:
        print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
    else:
        draw()


def _events_screen(options: argparse.Namespace) -> Console:
    """Where progress goes: bound to the real stream, because sys.stdout is redirected while steps speak."""
    return Console(file=sys.stderr if options.json else sys.stdout, soft_wrap=True)


def doctor(options: argparse.Namespace) -> int:
    """Exit code 1 when something that a run needs is missing."""
    if options.cluster:
        return _doctor_of_cluster(options)
    from pipelines.doctor import examine

    config = run_config.load(options.run_file)
    checks = examine(Path(config.run.store), config.rollout.port if config.rollout.target == "local" else None)

    def draw() -> None:
        for check in checks:
            mark = "[green]✓[/]" if check.ok else "[red]✗[/]" if check.required else "[dim]-[/]"
            remedy = "" if check.ok else f"  ({check.remedy})"
            _SCREEN.print(f"{mark} {check.name}: {check.found}{remedy}", highlight=False)

    _print(options, [vars(check) for check in checks], draw)
    return DONE if all(check.ok for check in checks if check.required) else FAILED


def _doctor_of_cluster(options: argparse.Namespace) -> int:
    """Exit code 1 when a part is missing, of another version, or not ready."""
    from pipelines import cluster_doctor, platform_parts

    reader = cluster_doctor.Reader.connect()
    findings = cluster_doctor.examine(platform_parts.read(), reader, options.environment)

    def draw() -> None:
        for one in findings:
            mark = "[green]✓[/]" if one.ok else "[red]✗[/]"
            version = f" {one.found or one.wanted}".rstrip()
            _SCREEN.print(f"{mark} {one.part}{version}: {one.why}", highlight=False)
            for problem in one.problems:
                _SCREEN.print(f"    {problem}", highlight=False, markup=False)
            if one.remedy:
                _SCREEN.print(f"    mend it: {one.remedy}", highlight=False, markup=False)

    _print(options, [{"ok": one.ok, **vars(one)} for one in findings], draw)
    return DONE if all(one.ok for one in findings) else FAILED


def validate(options: argparse.Namespace) -> int:
    """Exit code 2 and one line per problem for a run file that is not valid."""
    config = run_config.load(options.run_file)
    _print(options, config.parameters(), lambda: print(f"{run_config.find_run_file(options.run_file)}: valid"))
    return DONE


def run_pipeline(options: argparse.Namespace) -> int:
    """Exit code by the gate's verdict."""
    from pipelines.local_run import StepFailed, current_commit, new_run_id, run_locally

    name = run_config.load(options.run_file, target=options.target).run.name
    settings = {"run_id": new_run_id(name), "commit": current_commit()}
    if options.force:
        settings["force"] = options.force
    config = run_config.load(options.run_file, settings, options.target)
    screen = _events_screen(options)
    try:
        outcome = run_locally(config, screen, str(run_config.find_run_file(options.run_file)))
    except StepFailed as error:
        print(f"\n{error}\n{_live_words(config)}", file=sys.stderr)
        return FAILED
    value = {
        "run_id": config.run.run_id,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "live": outcome.live,
        "reports": outcome.reports,
        "seconds": round(outcome.seconds, 1),
        "steps": [{"step": s.name, "seconds": round(s.seconds, 1), "reused": s.reused} for s in outcome.steps],
    }
    _print(options, value, lambda: _draw_outcome(options, config, outcome))
    return _EXIT[outcome.verdict]


def _live_words(config: run_config.RunConfig) -> str:
    """What is live now, asked of the target and not concluded."""
    from components.rollout.deliver import live

    digest = live(Store(config.run), config.rollout)
    return f"live: {config.rollout.service} {digest}" if digest else f"nothing is live as {config.rollout.service}"


def _draw_outcome(options: argparse.Namespace, config: run_config.RunConfig, outcome: Any) -> None:
    table = Table("step", "seconds", "share", "", box=None, padding=(0, 2, 0, 0))
    for step in outcome.steps:
        share = f"{100 * step.seconds / outcome.seconds:.0f} %"
        table.add_row(step.name, f"{step.seconds:.1f}", share, "found in the store" if step.reused else "")
    _SCREEN.print("\n", table, "", sep="")
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[outcome.verdict]
    _SCREEN.print(f"[bold {colour}]verdict: {outcome.verdict}[/]", highlight=False)
    _SCREEN.print(outcome.reason, highlight=False, markup=False)
    for name, path in outcome.reports.items():
        _SCREEN.print(f"  report, {name}: {path}", highlight=False, markup=False)
    if outcome.live is None:
        _SCREEN.print(f"\nnothing was rolled out; {_live_words(config)}", highlight=False)
        return
    _draw_live(options.run_file, config.rollout, outcome.live)
    _SCREEN.print(f"total {outcome.seconds:.0f} s", highlight=False)


def _draw_live(run_file: str, config: RolloutConfig, live: dict[str, Any]) -> None:
    """The live model's address and three lines to try it with."""
    url, service = live["url"], config.service
    question = "How does a heat pump work?"
    chat_body = json.dumps({"model": service, "messages": [{"role": "user", "content": question}], "max_tokens": 80})
    generate_body = json.dumps({"prompt": question, "max_tokens": 80})
    last = f"stop it: {'make down' if run_file == 'laptop' else f'slipway down {run_file}'}"
    if config.target == "kserve":
        last = f"watch it: slipway rollout status {run_file} --target kserve --follow"
    lines = [
        f"\nlive: {service} {live['digest']}",
        f"chat page: {url}/",
        f"curl -s {url}/health",
        f"curl -s {url}/generate -H 'Content-Type: application/json' -d '{generate_body}'",
        f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{chat_body}'",
        last,
    ]
    for line in lines:
        _SCREEN.print(line, highlight=False, markup=False)


def compile_(options: argparse.Namespace) -> int:
    """Write the pipeline's YAML."""
    from pipelines.compile import compile_pipeline
    from pipelines.submit import find_unpulled

    config = run_config.load(options.run_file)
    profile = options.profile or config.placement
    if profile not in PROFILES:
        print(f"--profile {profile!r}: choose one of {', '.join(PROFILES)}", file=sys.stderr)
        return WRONG_USAGE
    compile_pipeline(config, profile, options.output, options.target)
    if problem := find_unpulled():
        print(problem, file=sys.stderr)
    _print(
        options, {"output": options.output, "profile": profile}, lambda: print(f"{options.output} (profile {profile})")
    )
    return DONE


def _place(options: argparse.Namespace) -> tuple[Store, RolloutConfig]:
    """The store and the rollout's settings, by the run file and --target.

    A run in a cluster has its store on a volume there. What a cluster serves was published, so whoever looks at it from
    elsewhere needs no more than a folder: the default one.
    """
    config = run_config.load(options.run_file, target=options.target)
    run = config.run
    if config.rollout.target == "kserve" and not Path(run.store).is_dir():
        run = run.model_copy(update={"store": RunSettings.model_fields["store"].default})
    return Store(run), config.rollout


def rollout_status(options: argparse.Namespace) -> int:
    """What is served, and by whom."""
    from components.rollout.deliver import status
    from pipelines.rollout_view import draw, follow

    if options.follow and options.json:
        options.refuse("--follow draws for people and --json prints once; choose one")
    store, config = _place(options)
    if options.follow:
        follow(lambda: status(store, config), _SCREEN)
        return DONE
    found = status(store, config)
    _print(options, found, lambda: _SCREEN.print(draw(found)))
    return DONE


def rollout_back(options: argparse.Namespace) -> int:
    """Return to an earlier release, checked like every rollout."""
    from components.rollout.deliver import back

    if options.digest and not _DIGEST.fullmatch(options.digest) and run_config.is_run_file(options.digest):
        options.refuse(f"`{options.digest}` is a run file; write `--run {options.digest}`")
    store, config = _place(options)
    with show_events(_events_screen(options)):
        record = back(store, options.digest, asked=config)
    _print(options, record, lambda: _draw_live(options.run_file, config, record))
    return DONE


def rollout_janitor(options: argparse.Namespace) -> int:
    """Exit code 1 when a service could not be looked after."""
    from components.rollout.kserve import janitor

    with show_events(_events_screen(options)):
        done = janitor.run(Store(RunSettings(name="janitor", store=options.store)), options.namespace)
    lines = [f"{one['service']}: {one['did']} ({one['why']})" for one in done]
    _print(options, done, lambda: print("\n".join(lines) or f"no service is in {options.namespace}"))
    return FAILED if any(one["did"] == "failed" for one in done) else DONE


def serve(options: argparse.Namespace) -> int:
    """Start the processes of what is live, where they do not run."""
    from components.rollout.deliver import back, live

    store, config = _place(options)
    digest = live(store, config)
    if digest is None:
        raise InputError(f"nothing was rolled out as {config.service} yet; `slipway run {options.run_file}` does")
    with show_events(_events_screen(options)):
        record = back(store, digest, asked=config)
    _print(options, record, lambda: _draw_live(options.run_file, config, record))
    return DONE


def down(options: argparse.Namespace) -> int:
    """Stop our fronts and servers: a run file's, or those of every store below the default one."""
    from components.rollout.deliver import down as stop_serving
    from components.rollout.local import service_names

    if options.run_file:
        store, config = _place(options)
        found = [(store, config)] if config.target != "local" or config.service in service_names(store) else []
    else:
        default = Path(RunSettings.model_fields["store"].default)
        states = [*default.glob("local/*/state.json"), *default.glob("*/local/*/state.json")]
        roots = sorted({state.parents[2] for state in states})
        stores = [Store(RunSettings(name="down", store=str(root))) for root in roots]
        found = [(store, RolloutConfig(service=service)) for store in stores for service in service_names(store)]
    stopped = [line for store, config in found for line in stop_serving(store, config)]
    _print(options, stopped, lambda: print("\n".join(stopped) or "nothing was running"))
    return DONE


def chat(options: argparse.Namespace) -> int:
    """A conversation in the terminal."""
    from components.rollout.deliver import status
    from pipelines.terminal_chat import converse

    store, config = _place(options)
    found = status(store, config)
    if not found["serving"]:
        raise InputError(f"{config.service} is not being served; start it with `slipway serve {options.run_file}`")
    converse(found["url"], config.service)
    return DONE


def report(options: argparse.Namespace) -> int:
    """Paths of the newest run's reports."""
    run = run_config.load(options.run_file).run
    store = Store(run)
    runs = sorted((store.root / "runs").glob(f"*-{run.name}/reports"))
    if not runs:
        raise InputError(f"no run has left a report in {store.root}; `slipway run {options.run_file}` does")
    paths = {path.stem: path for path in sorted(runs[-1].glob("*.html"))}
    _print(options, paths, lambda: print("\n".join(f"{name}: {path}" for name, path in paths.items())))
    return DONE


def trace(options: argparse.Namespace) -> int:
    """Release, base, data, commit, run and scores of what is live."""
    from components.rollout.deliver import live
    from components.rollout.targets import release_of
    from pipelines.trace import trace_release

    store, config = _place(options)
    digest = live(store, config)
    if digest is None:
        raise InputError(f"nothing is live as {config.service}")
    found = trace_release(store, digest, release_of(store, config, digest))

    def draw() -> None:
        for name, value in found.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            _SCREEN.print(f"{name:<10} {shown}", highlight=False, markup=False)

    _print(options, found, draw)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
