"""Commands about images, as `make` calls them.

    python -m images build [NAME ...] [--pinned]    make images: serving, components, components-cuda; release
    python -m images sbom [NAME ...]                make sbom
    python -m images lock                           make lock: what images and tools install, with hashes
    python -m images pin                            make pin: digests of foreign images into images.lock

Exit codes: 0 done, 1 failed or found something, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from images import build, catalogue, lock, release, requirements, sbom
from images import engine as engines
from images.engine import Engine
from images.errors import ImageError

LOGS = catalogue.ROOT / "build/images/logs"


def main(arguments: list[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    try:
        return _run(flags)
    except ImageError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m images", description="Pin, build and describe images.")
    commands = parser.add_subparsers(dest="command", required=True)
    own = [*catalogue.IMAGES, release.NAME]
    for name, told in (("build", "build and look into"), ("sbom", "say what is in")):
        command = commands.add_parser(name, help=f"{told} images; all but `release` without names")
        command.add_argument("names", nargs="*", metavar="NAME", help=" ".join(own))
        command.add_argument("--engine", default="", help="buildah or docker; ENGINE otherwise, else what is here")
        if name == "build":
            command.add_argument("--pinned", action="store_true", help="refuse a base that no digest names")
            command.add_argument("--release", type=Path, help="directory of the release that `release` takes in")
    commands.add_parser("lock", help="write images/requirements/ and .ci/tools/")
    commands.add_parser("pin", help="look up the digests of images.lock")
    return parser


def _run(flags: argparse.Namespace) -> int:
    match flags.command:
        case "lock":
            print(*requirements.lock(), sep="\n")
        case "pin":
            return _pin()
        case _:
            engine = engines.choose(flags.engine, LOGS)
            _as_root_of_a_namespace(engine)
            _with_engine(flags, engine)
    return 0


def _with_engine(flags: argparse.Namespace, engine: Engine) -> None:
    names = flags.names
    if unknown := sorted(set(names) - {*catalogue.IMAGES, release.NAME}):
        raise ImageError(f"no image {', '.join(unknown)}: {', '.join([*catalogue.IMAGES, release.NAME])}")
    match flags.command:
        case "build":
            ours = [name for name in names if name != release.NAME]
            if ours or not names:
                build.build(ours, engine, pinned_only=flags.pinned)
            if release.NAME in names:
                if flags.release is None:
                    raise ImageError("which release? make images IMAGES=release RELEASE=DIRECTORY")
                release.build_release(flags.release, engine)
        case "sbom":
            print(*sbom.write(names, engine), sep="\n")


def _pin() -> int:
    text, said, failed = lock.pin(lock.FILE.read_text())
    lock.FILE.write_text(text)
    print(*(said or ["images.lock: nothing is new"]), sep="\n")
    if failed:
        raise ImageError("\n".join(["not looked up:", *failed]))
    return 0


def _as_root_of_a_namespace(engine: Engine) -> None:
    """buildah shows an image's files to root alone; for everybody else it makes a namespace in which he is root."""
    if isinstance(engine, engines.Buildah) and os.geteuid() != 0:
        os.execvp("buildah", ["buildah", "unshare", sys.executable, "-m", "images", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
