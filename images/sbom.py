"""`make sbom`: what is in each image that was built, as CycloneDX JSON in build/sbom/NAME.cdx.json.

syft reads the built file system: Debian's packages and Python's. What comes out is compared with what went in.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images import catalogue, tools
from images.build import Built
from images.engine import Engine
from images.errors import ImageError

OUTPUT = catalogue.ROOT / "build/sbom"


def write(names: Sequence[str], engine: Engine) -> list[Path]:
    """One file for each image; raises ImageError, also when an image holds other packages than its requirements."""
    syft = tools.program("syft")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names or catalogue.IMAGES:
        built = Built.read(name)
        with engine.root(built.reference) as root:
            found = scan(syft, root, built.repository)
        found["metadata"] |= {"component": component(built), "tools": scanner()}
        if wrong := problems(found, asked(name), platform.machine()):
            raise ImageError("\n".join([f"{name} holds other packages than it was made from:", *wrong]))
        file = OUTPUT / f"{name}.cdx.json"
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        written.append(file)
    return written


def asked(name: str) -> str:
    """The requirements that an image was installed from; one with a release in it is the server's."""
    locks = catalogue.IMAGES.get(name, catalogue.IMAGES["serving"]).locks
    return "\n".join((catalogue.ROOT / lock).read_text() for lock in locks if not lock.endswith("/build.txt"))


def scan(syft: str, root: Path, name: str) -> dict:
    """What syft says of a folder, files themselves left out: they are thousands, and the packages name theirs."""
    with tempfile.TemporaryDirectory(prefix="slipway-sbom-") as folder:
        file = Path(folder, "sbom.json")
        flags = ["--quiet", f"--source-name={name}", f"--base-path={root}", f"--output=cyclonedx-json={file}"]
        # "image": what is installed; for a folder syft would also take what requirements files ask for
        command = [syft, "scan", f"dir:{root}", *flags, "--override-default-catalogers=image"]
        # syft would ask for newer versions of itself
        settings = {"SYFT_CHECK_FOR_APP_UPDATE": "false", "PATH": "/usr/bin:/bin", "HOME": folder}
        done = subprocess.run(command, capture_output=True, text=True, env=settings)
        if done.returncode:
            raise ImageError(f"syft failed for {name}:\n{done.stderr.strip()}")
        found = json.loads(file.read_text())
    found["components"] = [one for one in found.get("components", []) if one["type"] != "file"]
    return found


def scanner() -> dict:
    """Who has looked: built from source, syft does not know its own version."""
    version = next(tool.version for tool in tools.read(tools.LIST.read_text()) if tool.name == "syft")
    return {"components": [{"type": "application", "author": "anchore", "name": "syft", "version": version}]}


def component(built: Built) -> dict:
    """The image as the subject of its bill of materials."""
    return {
        "type": "container",
        "name": built.repository,
        "version": catalogue.version() + built.flavour,
        "bom-ref": built.identity,
        "properties": [
            {"name": "slipway:image-id", "value": built.identity},
            {"name": "slipway:base", "value": built.base},
            {"name": "slipway:revision", "value": catalogue.revision()},
        ],
    }


def problems(found: dict, requirements: str, machine: str) -> list[str]:
    """How the packages found differ from those asked for; Python's both ways, of Debian's that there are some."""
    python = {
        str(canonicalize_name(one["name"])): one["version"] for one in _kind(found, "pkg:pypi/") if not _vendored(one)
    }
    asked_for = installed(requirements, machine)
    wrong = [
        f"{name} {version} is missing" for name, version in sorted(asked_for.items()) if python.get(name) != version
    ]
    known = asked_for.keys() | {"slipway"}
    wrong += [f"{name} {version} was not asked for" for name, version in sorted(python.items()) if name not in known]
    return wrong + ([] if _kind(found, "pkg:deb/") else ["no package of the base was found"])


def installed(text: str, machine: str) -> dict[str, str]:
    """Canonical name -> version of the lines of a requirements file that count on a machine."""
    lines = [line.removesuffix("\\").strip() for line in text.splitlines() if line[:1].isalnum()]
    wanted = [Requirement(line) for line in lines]
    here = [one for one in wanted if one.marker is None or one.marker.evaluate({"platform_machine": machine})]
    return {str(canonicalize_name(one.name)): str(one.specifier).removeprefix("==") for one in here}


def _vendored(one: dict) -> bool:
    """Whether it came inside another package, as what setuptools brings along did."""
    places = [
        known["value"] for known in one.get("properties", []) if re.fullmatch(r"syft:location:\d+:path", known["name"])
    ]
    return bool(places) and all("/_vendor/" in place for place in places)


def _kind(found: dict, prefix: str) -> list[dict]:
    return [one for one in found["components"] if one.get("purl", "").startswith(prefix)]
