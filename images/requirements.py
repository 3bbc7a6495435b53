"""What each image installs, every file by its hash: images/requirements/NAME.txt, written by `make lock`.

pyproject.toml says what a part needs, constraints.txt which version; this adds the rest of the tree and the hashes of
the wheels that Python 3.11 takes on the images' systems. An image's big layer is made from its file alone, so that a
change of what only developers use does not build it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images import secrets, tools
from images.errors import ImageError

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "requirements"
CONSTRAINTS = ROOT / "constraints.txt"

PYTHON = "3.11"
GLIBC = "2_36"
"""Of Debian 12, on which the images stand."""

MACHINES = ("x86_64", "aarch64")

FROM_SOURCE = {"kfp-server-api": "is published as source only; plain Python"}
"""Built into a wheel inside the image, by the setuptools of build.txt."""

WITHOUT_WHEEL = {("psutil", "aarch64"): "kserve asks for psutil < 6, which has no wheel there"}
"""So no image is made for that machine: there is no compiler in any stage."""


@dataclass
class Pin:
    """A package of an image."""

    name: str
    version: str
    hashes: dict[str, set[str]] = field(default_factory=dict)
    """Machine that needs it -> sha256 of the files that may be installed there."""

    def line(self) -> str:
        """As pip reads it."""
        where = sorted(self.hashes)
        marker = "" if len(where) == len(MACHINES) else f' ; platform_machine == "{where[0]}"'
        hashes = sorted(set().union(*self.hashes.values()))
        return " \\\n".join([f"{self.name}=={self.version}{marker}", *(f"    --hash=sha256:{one}" for one in hashes)])


def roots(name: str, project: dict) -> list[str]:
    """What an image installs of its own accord, as pyproject.toml says it."""
    extras = project["optional-dependencies"]
    kfp = [line for line in extras["pipelines"] if line.startswith("kfp==")]  # starts the steps
    chosen: dict[str, Callable[[], list[str]]] = {
        "serving": lambda: [*project["dependencies"], *extras["serving"]],
        # the rollout and the packaging open the serving engine
        "components": lambda: [*project["dependencies"], *extras["steps"], *extras["serving"], *kfp],
        "build": lambda: ["setuptools"],
    }
    return sorted(set(chosen[name]()))


NAMES = ("build", "serving", "components")


def path(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def problems(name: str, text: str, project: dict, constraints: str) -> list[str]:
    """Why a file is not what `make lock` would write; empty when nothing has changed since."""
    pins = versions(constraints)
    found = read(text)
    said = []
    if f"# asked: {asked(name, project)}" not in text.splitlines():
        said.append("pyproject.toml asks for other packages")
    for package, version in found.items():
        if pins.get(package) != version:
            said.append(f"{package} is {version}, and {pins.get(package, 'missing')} in constraints.txt")
    for line in roots(name, project):
        requirement = Requirement(line)
        version = found.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            said.append(f"{line} is not met: {version}")
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    said += [f"{entry.split()[0]} has no hash" for entry in entries if "--hash=sha256:" not in entry]
    return said


def asked(name: str, project: dict) -> str:
    """Digest of what was asked for."""
    question = [roots(name, project), PYTHON, GLIBC, MACHINES]
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()


def versions(constraints: str) -> dict[str, str]:
    """Canonical name -> version of NAME==VERSION lines."""
    lines = [line.partition("==") for line in constraints.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in lines}


def read(text: str) -> dict[str, str]:
    """Canonical name -> version of a requirements file."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M)}


def lock() -> list[str]:
    """Write every image's file and every tool's; returns what is worth saying. Raises ImageError."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said: list[str] = []
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        pins, lacking = resolve(roots(name, project))
        path(name).write_text(compose(name, project, pins))
        said += [f"{name}: {len(pins)} packages", *(f"{name}: {line}" for line in lacking)]
    for tool in tools.read(tools.LIST.read_text()):
        if not tool.go:
            _lock_tool(tool)
            said.append(f"{tool.name}: {tool.lock.relative_to(ROOT)}")
    return said


def compose(name: str, project: dict, pins: Iterable[Pin]) -> str:
    """The text of an image's file."""
    return "\n".join(
        [
            "# Made by `make lock` from pyproject.toml and constraints.txt; not edited by hand.",
            f"# for: Python {PYTHON} on Linux {' and '.join(MACHINES)}, glibc {GLIBC.replace('_', '.')}",
            f"# asked: {asked(name, project)}",
            *(pin.line() for pin in pins),
            "",
        ]
    )


def resolve(wanted: list[str]) -> tuple[list[Pin], list[str]]:
    """(pins by name, what is lacking where) of some requirements; raises ImageError."""
    pins: dict[str, Pin] = {}
    lacking: list[str] = []
    for machine in MACHINES:
        for package in _packages(wanted, machine):
            name = package["name"]
            pin = pins.setdefault(name, Pin(name, package["version"]))
            pin.hashes[machine] = _files(package)
            if pin.hashes[machine]:
                continue
            if (name, machine) not in WITHOUT_WHEEL:
                raise ImageError(f"{name} {pin.version} has no wheel for Python {PYTHON} on Linux {machine}")
            lacking.append(f"{name} {pin.version} on {machine}: {WITHOUT_WHEEL[name, machine]}")
    return [pins[name] for name in sorted(pins)], lacking


def _files(package: dict) -> set[str]:
    """sha256 of what may be installed: wheels that fit, or the source of those known to have nothing else."""
    found = package.get("wheels", [])
    if package["name"] in FROM_SOURCE:
        found = [package["sdist"]]
    return {file["hashes"]["sha256"] for file in found}


def _packages(wanted: list[str], machine: str) -> list[dict]:
    """What uv chooses for a machine: name, version and the files that fit there."""
    with tempfile.TemporaryDirectory(prefix="slipway-lock-") as folder:
        asked, answer = Path(folder, "asked.in"), Path(folder, "pylock.toml")
        asked.write_text("\n".join([*wanted, ""]))
        platform = [f"--python-version={PYTHON}", f"--python-platform={machine}-manylinux_{GLIBC}"]
        _uv([str(asked), f"--constraints={CONSTRAINTS}", *platform, "--format=pylock.toml", f"--output-file={answer}"])
        return tomllib.loads(answer.read_text())["packages"]


def _lock_tool(tool: tools.Tool) -> None:
    """All systems and Pythons in one file: tools run on developers' machines too."""
    tool.lock.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slipway-lock-") as folder:
        asked = Path(folder, "asked.in")
        asked.write_text(f"{tool.source}=={tool.version}\n")
        flags = ["--universal", f"--python-version={PYTHON}", "--generate-hashes", "--no-header", "--no-annotate"]
        # what it needs stays at the version that the file has, as long as that fits
        _uv([str(asked), *flags, f"--output-file={tool.lock}"])


def _uv(arguments: list[str]) -> None:
    settings, _ = secrets.pip_settings()
    known = {"index-url": "--default-index", "extra-index-url": "--index"}
    flags = [f"{known[name]}={value}" for name, value in settings.items() if name in known]
    command = [tools.program("uv"), "pip", "compile", "--quiet", "--no-config", *flags, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise ImageError(f"uv cannot resolve:\n{done.stderr.strip()}")
