"""Target `local`: a server process per release on a loopback port, behind the weighted front.

    <store>/local/<service>/state.json     what is live, which processes were started, what was live before
                            routes.json    what the front routes by; replaced by rename
                            lock           held by the rollout that is at work
                            logs/          one per server, those of the last removed ones too; one per front

A process is noted before it is started and its id afterwards, so that one that was started by a rollout that
was killed in between is found again by its command line.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import httpx
import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from components.progress import say
from components.rollout import processes, traffic
from components.rollout.config import RolloutConfig, as_recorded
from components.rollout.target import (
    UNKNOWN,
    Instance,
    Observation,
    Origin,
    RolloutBusy,
    TargetError,
    Traffic,
    live_release,
    read_config,
)
from components.step_config import InputError
from components.store import Store, write_atomically

HOST = "127.0.0.1"
_IN_FORCE_SECONDS = 10.0
_LOOK_SECONDS = 0.1
"""How long nothing is looked at while something is waited for."""

_FRONT_SECONDS = 60.0
"""The front loads nothing; it needs a second."""

_FRONT_LOG_BYTES = 10_000_000
_OLD_LOGS = 5
"""Logs of removed servers that are kept."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ServerProcess(_Record):
    """A process that was started, or is about to be (no id yet)."""

    command: list[str]
    port: int
    log: str
    since: float
    """Seconds since the epoch."""

    pid: int | None = None
    mark: str | None = None
    """See processes.start_mark."""


class WentLive(_Record):
    """One entry of the history."""

    digest: str
    since: str
    run_id: str
    config: dict[str, Any] = {}
    """The rollout configuration by which it went live; {} of one that went live before this was noted."""


class State(_Record):
    """The content of state.json."""

    version: Literal[1] = 1
    config: dict[str, Any] = {}
    """The rollout configuration that was used last."""

    live: str | None = None
    candidate: str | None = None
    stopped: bool = False
    """The server of what is live was ended by strategy "replace"."""

    rejected: str = ""
    """Why the candidate is to go; "" while it may go live."""

    origins: dict[str, dict[str, str]] = {}
    """Release digest -> fields of target.Origin."""

    noted: dict[str, str] = {}
    """See Observation.noted."""

    servers: dict[str, ServerProcess] = {}
    """Release digest -> its server."""

    fronts: dict[str, ServerProcess] = {}
    """Public port -> its front; more than one only while the port changes."""

    history: list[WentLive] = []
    """Oldest first; the last is live."""


@dataclass(frozen=True)
class Commands:
    """How the processes are started."""

    server: Callable[[Path, str, int], list[str]]
    """(release directory, model name, port) -> command line."""

    front: Callable[[Path, int], list[str]]
    """(routes file, port) -> command line."""


def _server_command(release: Path, model: str, port: int) -> list[str]:
    where = ["--host", HOST, "--port", str(port)]
    return [sys.executable, "-m", "serving", "--release", str(release), "--model", model, *where]


def _front_command(routes: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "serving.front", "--routes", str(routes), "--host", HOST, "--port", str(port)]


SERVING = Commands(_server_command, _front_command)


class LocalTarget:
    """One service on this machine; implements `target.Target`."""

    def __init__(self, store: Store, config: RolloutConfig, *, origin: Origin = UNKNOWN, commands: Commands = SERVING):
        self._config, self._origin, self._commands = config, origin, commands
        self._directory = service_directory(store, config.service)
        self._routes = self._directory / "routes.json"
        # No connection is kept: an idle one would delay the end of the server that holds it.
        self._http = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    @property
    def url(self) -> str:
        """The public address."""
        return f"http://{HOST}:{self._config.port}"

    # ------------------------------------------------------------------------------------------ the lock

    @contextmanager
    def hold(self) -> Generator[None]:
        """See Target.hold. The kernel frees the lock when its process dies, however it dies."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RolloutBusy(self._busy()) from error
            _note(lock.fileno(), json.dumps(self._holder()))
            try:
                yield
            finally:
                _note(lock.fileno(), "")

    def _holder(self) -> dict[str, Any]:
        pid = os.getpid()
        return {"pid": pid, "mark": processes.start_mark(pid), "run": self._origin.run, "since": _now()}

    def _busy(self) -> str:
        holder = self.held_by() or {"pid": "?", "run": "", "since": "just now"}
        run = f", run {holder['run']}" if holder["run"] else ""
        return (
            f"the service {self._config.service} is being changed by process {holder['pid']}{run}, since "
            f"{holder['since']}; wait until it is done, or end that process and try again"
        )

    def held_by(self) -> dict[str, Any] | None:
        """Process id, run and since when of the rollout that is at work; None when there is none."""
        try:
            holder = cast("dict[str, Any]", json.loads((self._directory / "lock").read_text()))
        except (FileNotFoundError, ValueError):
            return None
        return holder if processes.start_mark(holder["pid"]) == holder["mark"] else None

    # ------------------------------------------------------------------------------------------- looking

    def observe(self) -> Observation:
        """See Target.observe."""
        state, backends = self.state(), self._backends()
        routed = _weights(backends)
        others = sorted(state.servers.keys() - {state.live, state.candidate})
        in_force = bool(routed) and all(
            backend["url"] == self._address(state, backend["release"]) for backend in backends
        )
        return Observation(
            stable=self._instance(state, state.live) if state.live else None,
            candidate=self._instance(state, state.candidate) if state.candidate else None,
            retired=tuple(self._instance(state, digest) for digest in others),
            routed=routed,
            in_force=in_force and _same_routes(self._front_health(), backends),
            previous=next((entry.digest for entry in reversed(state.history) if entry.digest != state.live), None),
            rejected=state.rejected,
            noted=state.noted,
        )

    def traffic(self) -> Mapping[str, Mapping[str, Traffic]]:
        """See Target.traffic."""
        state = self.state()
        running = {digest: self._address(state, digest) for digest, one in state.servers.items() if process_id(one)}
        return {digest: {url: self._count(url)} for digest, url in running.items()}

    def _count(self, url: str) -> Traffic:
        try:
            response = self._http.get(f"{url}/metrics", timeout=5.0)
            return traffic.count(response.raise_for_status().text)
        except (httpx.HTTPError, ValueError) as error:
            raise TargetError(f"the metrics of {url} cannot be read: {type(error).__name__}: {error}") from error

    def http(self, url: str, seconds: float) -> httpx.Client:
        """See Target.http."""
        return open_client(url, seconds)

    def wait(self, seconds: float) -> None:
        """See Target.wait. Processes announce nothing, so they are looked at again soon."""
        time.sleep(min(seconds, _LOOK_SECONDS))

    def history(self) -> Sequence[Mapping[str, str]]:
        """See Target.history."""
        return [entry.model_dump(exclude={"config"}) for entry in self.state().history]

    def settings(self, digest: str) -> RolloutConfig:
        """See Target.settings. The port is the service's, and every release is met there."""
        noted = next((one.config for one in reversed(self.state().history) if one.digest == digest), None)
        return as_recorded(noted | {"port": self._config.port}) if noted else self._config

    def live(self) -> str | None:
        """What is live, from what is on disk alone: no server is asked."""
        state = self.state()
        return live_release(state.live, state.candidate, _weights(self._backends()))

    def state(self) -> State:
        """What is on disk. Raises TargetError when it cannot be read."""
        return read_state(self._directory)

    def _save(self, state: State) -> None:
        state.config = self._config.model_dump(mode="json")
        write_atomically(self._directory / "state.json", state.model_dump_json(indent=1))

    def _backends(self) -> list[dict[str, Any]]:
        try:
            return cast("list[dict[str, Any]]", json.loads(self._routes.read_bytes())["backends"])
        except FileNotFoundError:
            return []

    def _address(self, state: State, digest: str) -> str:
        server = state.servers.get(digest)
        return f"http://{HOST}:{server.port}" if server else ""

    def _instance(self, state: State, digest: str) -> Instance:
        server = state.servers.get(digest)
        details = {"pid": server.pid if server else None, "log": server.log if server else None}
        origin = Origin(**state.origins.get(digest, {}))
        found, reason = self._state_of(state, digest)
        return Instance(digest, found, self._address(state, digest), reason, origin, details, exists=server is not None)

    def _state_of(self, state: State, digest: str) -> tuple[Literal["starting", "ready", "failed", "stopped"], str]:
        """State and reason of an Instance."""
        url, server = self._address(state, digest), state.servers.get(digest)
        if server is None:
            return "stopped" if state.stopped and digest == state.live else "failed", "its server was stopped"
        pid = process_id(server)
        if pid is None:
            code = processes.exit_code(server.pid) if server.pid else None
            told = processes.last_lines(Path(server.log))
            ended = "its server ended" if code is None else f"its server ended with code {code}"
            return "failed", f"{ended}; {server.log} ends: {told or 'nothing'}"
        late = time.time() - server.since > self._config.ready_seconds
        health = self._health(url, tries=3 if late else 1)
        if health is None:
            waited = f"not ready within {self._config.ready_seconds:g} s; see {server.log}"
            return ("failed", waited) if late else ("starting", "loading the release")
        if health.get("release") != digest:
            return "failed", f"its server says that it serves {health.get('release')}"
        return "ready", ""

    def _health(self, url: str, tries: int) -> dict[str, Any] | None:
        """The answer of /health; None when there is none. A busy server that was ready gets several tries."""
        for _ in range(tries):
            answer = self._get_json(f"{url}/health", seconds=min(5.0, self._config.ready_seconds))
            if answer is not None and answer.get("status") == "ok":
                return answer
        return None

    def _front_health(self) -> dict[str, Any] | None:
        """What the front has in force; None when none of ours runs at the port."""
        front = self.state().fronts.get(str(self._config.port))
        if front is None or process_id(front) is None:
            return None
        return self._get_json(f"{self.url}/front/health", seconds=5.0)

    def _get_json(self, url: str, seconds: float) -> dict[str, Any] | None:
        """A JSON object; None for anything else, which is no answer."""
        try:
            response = self._http.get(url, timeout=seconds)
            answer = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None
        return cast("dict[str, Any]", answer) if isinstance(answer, dict) else None

    def _in_flight(self, url: str) -> int:
        """Requests that the front has given to a server and that have not ended; 0 when there is no front."""
        health = self._front_health()
        return int(health["in_flight"].get(url, 0)) if health else 0

    # ------------------------------------------------------------------------------------------ changing

    def apply(self, digest: str, release: Path) -> None:
        """See Target.apply."""
        self.refuse_early()
        state = self.state()
        if digest in state.servers and self._instance(state, digest).state != "failed":
            if digest not in (state.live, state.candidate):  # replaced, and wanted again before it was removed
                state.candidate, state.rejected = digest, ""
                self._save(state)
            return
        if digest in state.servers:
            _end(state.servers[digest], seconds=1)  # it may hang rather than be gone
        port = _free_port()
        command = self._commands.server(release, self._config.service, port)
        log = self._directory / "logs" / f"{digest.removeprefix('sha256:')[:12]}-{port}.log"
        state.servers[digest] = ServerProcess(command=command, port=port, log=str(log), since=time.time())
        if digest == state.live:
            state.stopped = False
        else:
            state.candidate, state.rejected = digest, ""
            state.origins.setdefault(digest, asdict(self._origin))
        self._start(state, state.servers[digest])
        self._remove_old_logs(state)

    def route(self, weights: Mapping[str, int]) -> None:
        """See Target.route."""
        state = self.state()
        backends = [
            {"url": self._address(state, digest), "weight": weight, "release": digest}
            for digest, weight in weights.items()
            if weight
        ]
        strangers = [backend["release"] for backend in backends if not backend["url"]]
        if strangers:
            raise TargetError(f"{strangers[0]} has no server to route to")
        if not self._routes.exists():
            self._write_routes([])
        self._ensure_front()
        self._write_routes(backends)
        deadline = time.monotonic() + _IN_FORCE_SECONDS
        while not _same_routes(self._front_health(), backends):
            if time.monotonic() > deadline:
                raise TargetError(
                    f"the front at {self.url} does not use its new routes after {_IN_FORCE_SECONDS:g} s; see "
                    f"{self._front_log()}"
                )
            time.sleep(0.02)
        self._end_other_fronts()

    def promote(self, digest: str) -> None:
        """See Target.promote."""
        state = self.state()
        if state.live != digest:
            state.live, state.stopped = digest, False
            run_id = state.origins.get(digest, {}).get("run_id", "")
            config = self._config.model_dump(mode="json")
            state.history.append(WentLive(digest=digest, since=_now(), run_id=run_id, config=config))
        if state.candidate == digest:
            state.candidate, state.rejected = None, ""
        self._save(state)

    def reject(self, digest: str, why: str) -> None:
        """See Target.reject."""
        state = self.state()
        if state.candidate == digest:
            state.rejected = why
            self._save(state)

    def change(self, digest: str, release: Path, check: Callable[[], None]) -> None:
        """See Target.change. No setting is observed to differ: a server here has none but how long it may drain."""

    def restore(self, digest: str) -> None:
        """See Target.restore."""

    def stop(self, digest: str) -> None:
        """See Target.stop."""
        state = self.state()
        self._end_server(state, digest)
        state.stopped = True
        self._save(state)

    def remove(self, digest: str) -> None:
        """See Target.remove."""
        state = self.state()
        self._end_server(state, digest)
        if state.candidate == digest:
            state.candidate, state.rejected = None, ""
        state.origins.pop(digest, None)
        self._save(state)
        self._remove_old_logs(state)

    def _end_server(self, state: State, digest: str) -> None:
        """End a release's server once it has no request; the caller saves the state."""
        if any(backend["release"] == digest and backend["weight"] for backend in self._backends()):
            raise TargetError(f"{digest} gets traffic, so its server is not ended")
        server = state.servers.get(digest)
        if server is None:
            return
        deadline = time.monotonic() + self._config.drain_seconds
        while self._in_flight(self._address(state, digest)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not _end(server, max(deadline - time.monotonic(), 1)):
            say("cut_off", release=digest, after_seconds=self._config.drain_seconds)
        del state.servers[digest]

    def note(self, state: str, reason: str = "") -> None:
        """See Target.note."""
        written = self.state()
        written.noted = {"state": state, "reason": reason, "since": _now()}
        self._save(written)

    def stop_all(self) -> list[str]:
        """End the fronts, then the servers; what is live is remembered. Returns what was ended, in words."""
        state, ended = self.state(), list[str]()
        live = self.live()
        if live and live != state.live:
            self.promote(live)  # its rollout was interrupted after the switch
            state = self.state()
        for port, front in state.fronts.items():
            if process_id(front):
                _end(front, self._config.drain_seconds)
                ended.append(f"front at port {port}")
        for digest, server in state.servers.items():
            if process_id(server):
                _end(server, self._config.drain_seconds)
                ended.append(f"server of {digest}")
        state.fronts, state.servers, state.candidate, state.rejected = {}, {}, None, ""
        state.noted = {"state": "down", "reason": "it was stopped by hand", "since": _now()}
        self._write_routes([])
        self._save(state)
        self._remove_old_logs(state)
        return ended

    def refuse_early(self) -> None:
        """See Target.refuse_early: somebody else may hold the public port."""
        port = self._config.port
        front = self.state().fronts.get(str(port))
        if front and process_id(front):
            return
        if _is_free(port):
            return
        holder = _listener(port)
        by = f" by process {holder}" if holder else ""
        raise TargetError(
            f"port {port} is in use{by}; end that program (`slipway down` does, if it is ours), or set rollout.port in "
            "the run file to a free port"
        )

    def _write_routes(self, backends: list[dict[str, Any]]) -> None:
        routes = {"service": self._config.service, "backends": backends}
        write_atomically(self._routes, json.dumps(routes, indent=1))

    def _start(self, state: State, process: ServerProcess) -> None:
        self._save(state)
        # Whole seconds, and never fewer than it is given here before it is ended.
        drain = {"SLIPWAY_DRAIN_SECONDS": str(math.ceil(self._config.drain_seconds))}
        process.pid, process.mark = processes.start(process.command, Path(process.log), drain)
        self._save(state)

    def _front_log(self) -> Path:
        return self._directory / "logs" / f"front-{self._config.port}.log"

    def _remove_old_logs(self, state: State) -> None:
        in_use = {Path(server.log).name for server in state.servers.values()}
        logs = [path for path in (self._directory / "logs").glob("*.log") if not path.name.startswith("front-")]
        processes.keep_newest([path for path in logs if path.name not in in_use], _OLD_LOGS)

    def _ensure_front(self) -> None:
        """Have a front that answers at the public port."""
        state, key = self.state(), str(self._config.port)
        front = state.fronts.get(key)
        if front and process_id(front):
            if self._front_health() is not None:
                return
            _end(front, seconds=1)  # it runs and does not answer
        self.refuse_early()
        command = self._commands.front(self._routes, self._config.port)
        front = ServerProcess(command=command, port=self._config.port, log=str(self._front_log()), since=time.time())
        state.fronts[key] = front
        processes.rotate(self._front_log(), _FRONT_LOG_BYTES)
        self._start(state, front)
        deadline = time.monotonic() + _FRONT_SECONDS
        while self._front_health() is None:
            gone = process_id(front) is None
            if gone or time.monotonic() > deadline:
                why = "ended" if gone else f"does not answer after {_FRONT_SECONDS:g} s"
                raise TargetError(f"the front {why}; {front.log} ends: {processes.last_lines(Path(front.log))}")
            time.sleep(0.05)

    def _end_other_fronts(self) -> None:
        """After the public port was changed, the front at the old one goes."""
        state = self.state()
        others = [port for port in state.fronts if port != str(self._config.port)]
        for port in others:
            _end(state.fronts.pop(port), self._config.drain_seconds)
        if others:
            self._save(state)


# ------------------------------------------------------------------------------------------ small parts


def open_client(url: str, seconds: float) -> httpx.Client:
    """A client for a server of this machine; see Target.http."""
    # Proxies of the environment are for the internet, not for the place where we serve.
    return httpx.Client(base_url=url, timeout=seconds, trust_env=False)


def service_directory(store: Store, service: str) -> Path:
    """Where a service's state lies."""
    return store.root / "local" / service


def read_state(directory: Path) -> State:
    """A service's state.json; an empty state when there is none. Raises TargetError when it cannot be read."""
    path = directory / "state.json"
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except ValidationError as error:
        raise TargetError(
            f"{path} cannot be read ({error.error_count()} errors); end its servers, remove {directory} and roll "
            "out again"
        ) from error


def service_names(store: Store) -> list[str]:
    """Services that were ever rolled out locally from this store."""
    return sorted(path.parent.name for path in (store.root / "local").glob("*/state.json"))


def configuration(store: Store, service: str | None = None) -> RolloutConfig:
    """The configuration that a service was last rolled out with; the only service when none is named.

    Raises InputError when there is none, or several to choose from; TargetError when it cannot be read.
    """
    names = service_names(store)
    if service is None and len(names) == 1:
        service = names[0]
    if service is None and names:
        raise InputError(f"there are several services ({', '.join(names)}); name one")
    if service is None or service not in names:
        known = f"; known are {', '.join(names)}" if names else ""
        raise InputError(
            f"no {service or 'service'} was rolled out from {store.root}{known}; `slipway run RUN` brings it, and "
            "one in a cluster is meant with --target kserve"
        )
    directory = service_directory(store, service)
    return read_config(read_state(directory).config, f"the configuration in {directory / 'state.json'}")


def process_id(process: ServerProcess) -> int | None:
    """Id of the process that a record means, while it runs."""
    if process.pid is None:
        return processes.find(process.command)
    return process.pid if processes.start_mark(process.pid) == process.mark else None


def _end(process: ServerProcess, seconds: float) -> bool:
    pid = process_id(process)
    mark = processes.start_mark(pid) if pid else None
    return processes.stop(pid, mark, seconds) if pid and mark else True


def _weights(backends: list[dict[str, Any]]) -> dict[str, int]:
    return {backend["release"]: int(backend["weight"]) for backend in backends if backend["weight"]}


def _same_routes(health: dict[str, Any] | None, backends: list[dict[str, Any]]) -> bool:
    def listed(some: list[dict[str, Any]]) -> set[tuple[str, str, int]]:
        return {(one["url"], one["release"], int(one["weight"])) for one in some if one["weight"]}

    return health is not None and listed(health["routes"]["backends"]) == listed(backends)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return False
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def _listener(port: int) -> str:
    """Who listens on a port, where the system tells."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,)
            if listens and connection.pid:
                return f"{connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def _note(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
