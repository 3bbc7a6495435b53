"""`python -m manifests.installer plan|apply|fetch|pin|helm`: what `make platform` and `make platform-plan` call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests.installer import applying, pins, rendering, sources, tools
from manifests.installer.applying import Cluster
from manifests.installer.errors import PlatformError
from manifests.installer.rendering import Given
from pipelines import platform_parts
from pipelines.platform_parts import ON_GKE, Part, Platform


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except platform_parts.InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m manifests.installer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, summary in ((plan, "say what would be done and what would change"), (apply, "apply it")):
        command = commands.add_parser(function.__name__, help=summary, description=summary)
        command.add_argument("--environment", choices=ON_GKE, required=True)
        command.add_argument("--part", action="append", metavar="NAME", help="only this one; may be repeated")
        _add_files(command)
        command.add_argument("--context", default="", help="of the kubeconfig; by default the one of the platform file")
        command.set_defaults(command=function)
    bring = commands.add_parser("fetch", help="bring upstream's files to this machine")
    bring.add_argument("--modules", action="store_true", help="from Go's module proxy, where they are modules")
    bring.set_defaults(command=fetch)
    commands.add_parser("helm", help="build helm with Go").set_defaults(command=helm)
    commands.add_parser("pin", help="look up the digests of upstream's images").set_defaults(command=pin)
    return parser


def _add_files(command: argparse.ArgumentParser) -> None:
    for name in ("platform", "images"):
        command.add_argument(f"--{name}-file", type=Path, help=f"instead of the overlay's {name}.env")


def plan(options: argparse.Namespace) -> None:
    """Each part: where it comes from, the commands, and what would change in the cluster."""
    platform, parts, given, cluster = _read(options)
    _fetch(platform, parts)
    lock = pins.read()
    for number, part in enumerate(parts, start=1):
        print(f"\n{number}. {_heading(part)}")
        if part.by:
            print(f"   brought by {part.by}")
            continue
        for name in part.source_names():
            source = platform.sources[name]
            print(f"   from {source.archive or f'{source.repository} {source.ref} {source.commit}'}")
        objects = pins.pin(rendering.render(platform, part, given), lock)
        for name in pins.unpinned(objects, lock):
            print(f"   by its tag alone: {name}")
        print(f"   {tools.words(applying.apply_command(part, cluster))}   ({len(objects)} objects)")
        for wait in applying.waits(part):
            print(f"   {tools.words(cluster.kubectl(*wait.arguments))}")
        _print_differences(part, objects, cluster)


def _print_differences(part: Part, objects: list[dict[str, Any]], cluster: Cluster) -> None:
    """A cluster that lacks a part's kinds, or is not to be had, is no failure of a plan."""
    try:
        changed = applying.differences(part, objects, cluster)
        left = applying.left_over(part, objects, cluster)
    except PlatformError as error:
        print("   what would change cannot be said: " + str(error).partition("\n")[2].strip().replace("\n", "\n     "))
        return
    print("   changes nothing" if not changed else "   changes:\n" + changed)
    for one in left:
        print(f"   left from an earlier version, to be deleted by hand: {one}")


def apply(options: argparse.Namespace) -> None:
    """The parts in order; what fails ends it, and the same command goes on from there."""
    platform, parts, given, cluster = _read(options)
    _refuse_another_cluster(cluster, given.variables)
    _fetch(platform, parts)  # all of it is fetched and rendered before anything is changed
    lock = pins.read()
    rendered = {part.name: pins.pin(rendering.render(platform, part, given), lock) for part in parts}
    _refuse_tags(options.environment, rendered, lock)
    for number, part in enumerate(parts, start=1):
        print(f"[{number}/{len(parts)}] {_heading(part)}", flush=True)
        if part.by:
            print(f"  brought by {part.by}", flush=True)
        applying.apply(part, rendered[part.name], cluster, lambda line: print(line, flush=True))
    print("done; `slipway doctor --cluster` says what stands")


def _refuse_tags(environment: str, rendered: Mapping[str, list[dict[str, Any]]], lock: pins.Lock) -> None:
    """In prod nothing runs whose content may change under its name."""
    loose = sorted({name for objects in rendered.values() for name in pins.unpinned(objects, lock)})
    if environment == "prod" and loose:
        raise PlatformError(f"no digest is known of {', '.join(loose)}; `make pin` looks them up ({pins.FILE.name})")


def _fetch(platform: Platform, parts: list[Part]) -> None:
    for name in dict.fromkeys(name for part in parts for name in part.source_names()):
        sources.fetch(name, platform.sources[name])


def fetch(options: argparse.Namespace) -> None:
    """Every source, or what can be had of them; a failure is said at the end."""
    failed: list[str] = []
    for name, source in platform_parts.read().sources.items():
        try:
            if options.modules and source.module:
                print(f"{name}: {sources.fetch_module(source)}", flush=True)
            else:
                print(f"{name}: {sources.fetch(name, source)}", flush=True)
        except PlatformError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise PlatformError("\n".join(failed))


def helm(options: argparse.Namespace) -> None:
    print(tools.build_helm())


def pin(options: argparse.Namespace) -> None:
    """What upstream's parts name in any environment; our own images are pinned elsewhere."""
    platform = platform_parts.read()
    _fetch(platform, list(platform.parts))
    found = pins.named_upstream(platform)
    pins.FILE.write_text(pins.compose(pins.look_up(found)), encoding="utf-8")
    print(f"wrote {pins.FILE.name}: {len(found)} images")


def _heading(part: Part) -> str:
    return f"{part.name} {part.version}".strip() + f": {part.why}"


def _read(options: argparse.Namespace) -> tuple[Platform, list[Part], Given, Cluster]:
    platform = platform_parts.read()
    given = rendering.given(options.environment, options.platform_file, options.images_file)
    said = given.variables.get("PLATFORM_ENVIRONMENT")
    if said != options.environment:
        raise PlatformError(
            f"the platform file is of the environment {said or '(none)'}, not {options.environment}; write it anew "
            "with `terraform -chdir=terraform/environments/gke output -raw platform_env`"
        )
    parts = platform.of(options.environment)
    unknown = sorted(set(options.part or []) - {part.name for part in parts})
    if unknown:
        raise PlatformError(f"no part {', '.join(unknown)}; there are {', '.join(part.name for part in parts)}")
    chosen = [part for part in parts if not options.part or part.name in options.part]
    return platform, chosen, given, Cluster(options.context or expected_context(given.variables))


def expected_context(variables: Mapping[str, str]) -> str:
    """As `gcloud container clusters get-credentials` names it, so that no other cluster is met by mistake."""
    return "_".join(["gke", *(variables.get(f"PLATFORM_{one}", "") for one in ("PROJECT", "LOCATION", "CLUSTER"))])


def _refuse_another_cluster(cluster: Cluster, variables: Mapping[str, str]) -> None:
    contexts = tools.run([tools.kubectl(), "config", "get-contexts", "--output=name"]).split()
    if cluster.context not in contexts:
        command = "gcloud container clusters get-credentials {} --project {} --location {} --dns-endpoint"
        known = [variables.get(f"PLATFORM_{one}", "") for one in ("CLUSTER", "PROJECT", "LOCATION")]
        raise PlatformError(
            f"the kubeconfig has no context {cluster.context}; `{command.format(*known)}` makes it, or name another "
            "with --context"
        )


if __name__ == "__main__":
    sys.exit(main())
