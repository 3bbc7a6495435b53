"""Serve one release: `python -m serving --release DIRECTORY --model NAME [--port PORT] [--host HOST]`.

Flags go before the environment (serving/settings.py lists the variables), which goes before the defaults.
Exit codes: 0 stopped by a signal, 1 the release or the port cannot be used, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from serving.engine import EngineError, open_engine
from serving.environment import SettingsError
from serving.generation import Generator
from serving.listen import check_port, place
from serving.logs import configure_logs
from serving.release import Release, ReleaseError, verify_release
from serving.settings import Settings, read_settings


def main() -> int:
    """Read flags, check what can be checked, load, serve."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve one release over HTTP.")
    parser.add_argument("--release", type=Path, required=True, help="release directory")
    parser.add_argument("--model", required=True, help="name of the model in the HTTP API")
    parser.add_argument("--port", type=int)
    parser.add_argument("--host")
    flags = parser.parse_args()
    # The first process of a container ignores signals that it has no handler for; there is nothing to finish yet.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = read_settings(os.environ, port=flags.port, host=flags.host)
    except SettingsError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    try:
        check_port(settings)
        serve(flags.release, flags.model, settings)
    except (ReleaseError, SettingsError, EngineError, OSError) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    return 0


def check_engine_url(release: Release, settings: Settings) -> None:
    """Raises SettingsError unless there is a vLLM exactly where the release is for one."""
    engine, url = release.serving.engine, settings.engine_url
    if engine == "vllm" and not url:
        raise SettingsError("the release is for vllm; SLIPWAY_ENGINE_URL must name it, as http://127.0.0.1:8081 does")
    if url and engine != "vllm":
        raise SettingsError(f"SLIPWAY_ENGINE_URL = {url}: the release is for engine {engine}; leave it out")


def serve(directory: Path, name: str, settings: Settings) -> None:
    """Verify and load a release, then serve it until a signal."""
    release = verify_release(directory)
    check_engine_url(release, settings)
    configure_logs(settings.log_level, release.digest)
    log = logging.getLogger("serving")
    log.info("loading", extra={"engine": release.serving.engine, "precision": release.serving.precision})
    engine = open_engine(directory, settings.engine_options())
    generator = Generator(name, directory, release, engine, settings)
    # kserve reads the command line when it is imported, and would take our flags for its own.
    sys.argv[1:] = []
    from serving.app import ReleaseServer

    log.info("listening", extra={"address": f"http://{place(settings)}", "model": name})
    ReleaseServer(generator, settings).run()
    log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
