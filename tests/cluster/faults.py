"""What tests of the rollout on a cluster share: a server with a fault as an image, and the table of what happened."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import subprocess
import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster import images
from tests.cluster.faulty_proxy import FaultyProxy
from tests.cluster.images import Builder, Image
from tests.cluster.place import ROOT, Place

_SERVER = Path(__file__).with_name("faulty_server.py")
_REAL = ROOT / "serving/__main__.py"
_REPOSITORY = "slipway-serving-fault"


def faulty_image(place: Place, fault: str) -> str:
    """Reference by digest of the serving image with a fault of faulty_server.py; built and pushed where it is new."""
    serving = images.build("serving", place)
    made_of = [serving, fault, _SERVER.read_text(), _REAL.read_text()]
    tag = f"{fault}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]}"
    image = Image(_REPOSITORY, _REPOSITORY, "", "", ())
    if digest := images.pushed(place.registry, image, tag):
        return f"{place.registry}/{_REPOSITORY}@{digest}"
    local = f"localhost/{_REPOSITORY}:{tag}"
    with tempfile.TemporaryDirectory(prefix="slipway-fault-") as folder:
        shutil.copyfile(_SERVER, Path(folder, "__main__.py"))
        shutil.copyfile(_REAL, Path(folder, "true_main.py"))
        Path(folder, "Dockerfile").write_text(
            f"FROM {serving}\nCOPY __main__.py true_main.py /opt/slipway/serving/\nENV SLIPWAY_FAULT={fault}\n"
        )
        builder = Builder(place)
        flags = ["--isolation=chroot", "--layers", "--tls-verify=false", f"--tag={local}"]
        builder.run(_REPOSITORY, ["buildah", "bud", *flags, folder])
        digest = builder.push(local, f"{place.registry}/{_REPOSITORY}", (tag,))
        subprocess.run(["buildah", "rmi", local], capture_output=True)
    return f"{place.registry}/{_REPOSITORY}@{digest}"


@dataclass(frozen=True)
class Line:
    """How one fault ended."""

    fault: str
    ended: str
    seconds: float
    reason: str


class Table:
    """The lines of a test session, as docs/rollout.md shows them; printed, and kept in a file beside the logs."""

    def __init__(self, place: Place):
        self._path = place.logs / "faults.json"
        self._lines: dict[str, Line] = {}
        if self._path.exists():
            self._lines = {line["fault"]: Line(**line) for line in json.loads(self._path.read_text())}

    def add(self, line: Line) -> None:
        """Keep a line in the place of an older one about the same fault."""
        self._lines[line.fault] = line
        self._path.write_text(json.dumps([asdict(one) for one in self._lines.values()], indent=1))
        self._path.with_suffix(".md").write_text(self.markdown())
        print(_row(line))

    def markdown(self) -> str:
        """All of it."""
        return "\n".join(
            ["| fault | ended | seconds | reason |", "|---|---|---:|---|", *map(_row, self._lines.values())]
        )


def _row(line: Line) -> str:
    reason = line.reason.replace("|", "\\|").replace("\n", " ")
    return f"| {line.fault} | {line.ended} | {line.seconds:.0f} | {reason} |"


class ProxyWithout(FaultyProxy):
    """An API server to which a group of kinds was never added."""

    def __init__(self, kubeconfig: Path, group: str):
        super().__init__(kubeconfig)
        self._group = group

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> AbstractContextManager[http.client.HTTPResponse]:
        """The real server's own words about a group that it does not have."""
        return super().ask(method, path.replace(f"/apis/{self._group}/", "/apis/nothing.example/"), headers, body)
