"""Says whether every pin of constraints.txt has wheels for each platform and Python that Slipway names.

`make check-pins`. Not a test: it needs the package index, and minutes where the index offers no separate metadata.

For each target the requirements of pyproject.toml are followed through all they need. pip chooses the wheel of each
pinned version (`pip install --dry-run --no-deps --only-binary=:all: --platform … --python-version …`), and that
wheel's own metadata says what comes next. pip evaluates environment markers for the interpreter that runs it, so the
walk is done here and evaluates them for the target. Nothing is installed and nothing of another platform is run:
the answer is "it resolves to wheels", not "it works".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent
EXTRAS = ("steps", "serving", "pipelines", "dev")
PYTHONS = ((3, 11), (3, 12), (3, 13))
# glibc 2.x of the oldest system that is asked about: Debian 11; Ubuntu 22.04, where openvino's wheels begin.
GLIBC_MINOR = {"x86_64": 31, "aarch64": 35}
MACOS = (14, 0)  # torch's floor

# What no wheel covers, and why that is accepted. The first is built and looked at here; the second is not.
PURE_SOURCE = {"kfp-server-api": "published as source only"}
COMPILED = {("psutil", "Linux", "aarch64"): "kserve asks for psutil < 6, which has no wheel there: needs a C compiler"}


@dataclass(frozen=True)
class Target:
    """One platform and Python version, as pip and as environment markers name it."""

    system: str
    machine: str
    python: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.system} {self.machine}, Python {self.version}"

    @property
    def version(self) -> str:
        return f"{self.python[0]}.{self.python[1]}"

    @property
    def platforms(self) -> list[str]:
        """Platform tags, best first."""
        if self.system == "Darwin":
            return list(mac_platforms(MACOS, self.machine))
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        names = []
        for minor in range(GLIBC_MINOR[self.machine], 4, -1):
            names += [f"manylinux_2_{minor}_{self.machine}"]
            names += [f"{legacy[minor]}_{self.machine}"] if minor in legacy else []
        return names

    @property
    def tags(self) -> set[Tag]:
        """Every wheel tag that installs there."""
        cp = f"cp{self.python[0]}{self.python[1]}"
        tags = {*cpython_tags(self.python, abis=[cp], platforms=self.platforms)}
        return tags | {*compatible_tags(self.python, interpreter=cp, platforms=self.platforms)}

    def environment(self, extra: str) -> dict[str, str]:
        """Environment markers (PEP 508)."""
        return {
            "extra": extra,
            "implementation_name": "cpython",
            "implementation_version": f"{self.version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": self.system,
            "platform_version": "",
            "python_full_version": f"{self.version}.0",
            "python_version": self.version,
            "sys_platform": self.system.lower(),
        }


@dataclass(frozen=True)
class Wheel:
    """A wheel that the index holds, and what its metadata says."""

    filename: str
    tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    requires_python: str

    @classmethod
    def of(cls, filename: str, requires: Iterable[str], requires_python: str) -> Wheel:
        tags = parse_wheel_filename(filename)[3]
        return cls(filename, tags, tuple(Requirement(line) for line in requires), requires_python)

    def fits(self, target: Target) -> bool:
        python_fits = SpecifierSet(self.requires_python).contains(f"{target.version}.0")
        return python_fits and not self.tags.isdisjoint(target.tags)


@dataclass
class Check:
    """The walk over all targets; wheels that fit several targets are asked for once."""

    pins: dict[str, str]
    wheels: dict[str, list[Wheel]] = field(default_factory=dict)

    def run(self, target: Target, roots: list[Requirement]) -> tuple[int, list[str]]:
        """(number of packages that the target installs, problems in words)."""
        compiled = {name for name, *where in COMPILED if where == [target.system, target.machine]}
        missing: set[str] = set()
        while True:
            needed, problems = self.closure(target, roots)
            unseen = sorted(name for name in needed - missing - compiled if self.wheel(name, target) is None)
            if not unseen:
                problems += [f"{name}=={self.pins[name]} has no wheel" for name in sorted(missing)]
                return len(needed), problems
            missing |= self.fetch(target, unseen)

    def wheel(self, name: str, target: Target) -> Wheel | None:
        return next((wheel for wheel in self.wheels.get(name, []) if wheel.fits(target)), None)

    def closure(self, target: Target, roots: list[Requirement]) -> tuple[set[str], list[str]]:
        """Names that the roots lead to, and the requirements that the pins do not meet.

        A package without a known wheel for the target is followed by another target's wheel: a guess that saves
        calls of pip, and is replaced before the walk ends.
        """
        queue = [("pyproject.toml", requirement) for requirement in roots]
        seen: set[tuple[str, str]] = set()
        problems: set[str] = set()
        while queue:
            source, requirement = queue.pop()
            name = canonicalize_name(requirement.name)
            pin = self.pins.get(name)
            if pin is None:
                problems.add(f"{source} needs {requirement}, which is not pinned")
                continue
            if not requirement.specifier.contains(pin, prereleases=True):
                problems.add(f"{source} needs {requirement}, but the pin is {pin}")
            wheel = self.wheel(name, target) or next(iter(self.wheels.get(name, [])), None)
            for extra in {"", *requirement.extras}:
                if (name, extra) in seen:
                    continue
                seen.add((name, extra))
                queue += [
                    (name, need)
                    for need in (wheel.requires if wheel else ())
                    if need.marker is None or need.marker.evaluate(target.environment(extra))
                ]
        return {name for name, _ in seen}, sorted(problems)

    def fetch(self, target: Target, names: list[str]) -> set[str]:
        """Ask pip for the target's wheels of these names; gives back the names that have none."""
        missing: set[str] = set()
        for name in [name for name in names if name in PURE_SOURCE]:
            self.wheels.setdefault(name, []).append(build_pure_wheel(name, self.pins[name]))
        names = [name for name in names if name not in PURE_SOURCE]
        while names:
            found, none_for = choose_wheels(target, [f"{name}=={self.pins[name]}" for name in names])
            if none_for is None:
                for name, wheel in found.items():
                    self.wheels.setdefault(name, []).append(wheel)
                # a wheel that pip takes but whose tags do not fit would be asked for forever
                return missing | {name for name in names if self.wheel(name, target) is None}
            missing.add(none_for)
            names.remove(none_for)
        return missing


def choose_wheels(target: Target, pinned: list[str]) -> tuple[dict[str, Wheel], str | None]:
    """(wheel by name, None), or ({}, the first name that has no wheel for the target).

    Raises RuntimeError when pip fails for another reason.
    """
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        command += ["--no-cache-dir", "--only-binary=:all:", "--python-version", target.version]
        command += [f"--platform={name}" for name in target.platforms]
        command += ["--target", directory, "--report", str(report), *pinned]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            refused = re.search(r"No matching distribution found for ([\w.-]+)==", result.stderr)
            if refused is None:
                raise RuntimeError(f"pip failed for {target}:\n{result.stderr}")
            return {}, canonicalize_name(refused[1])
        items = json.loads(report.read_text())["install"]
    return {canonicalize_name(item["metadata"]["name"]): wheel_of_report(item) for item in items}, None


def wheel_of_report(item: dict) -> Wheel:
    metadata = item["metadata"]
    filename = item["download_info"]["url"].rpartition("/")[2]
    return Wheel.of(filename, metadata.get("requires_dist", []), metadata.get("requires_python", ""))


def build_pure_wheel(name: str, version: str) -> Wheel:
    """Build a source distribution with this interpreter; raises RuntimeError when the wheel is not pure Python."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
        command += ["--no-binary", name, "--wheel-dir", directory, f"{name}=={version}"]
        subprocess.run(command, check=True)
        path = next(Path(directory).glob("*.whl"))
        if not path.name.endswith("-none-any.whl"):
            raise RuntimeError(f"{name}=={version} builds {path.name}, which is bound to this platform")
        with zipfile.ZipFile(path) as archive:
            inside = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
            metadata = HeaderParser().parsestr(archive.read(inside).decode())
    return Wheel.of(path.name, metadata.get_all("Requires-Dist", []), metadata.get("Requires-Python", ""))


def read_pins(path: Path) -> dict[str, str]:
    """Canonical name -> version; raises ValueError for a line that is not NAME==VERSION."""
    pins = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            if not equals:
                raise ValueError(f"{path.name}: {line!r} is not NAME==VERSION")
            pins[canonicalize_name(name)] = version
    return pins


def read_roots(path: Path) -> list[Requirement]:
    project = tomllib.loads(path.read_text())["project"]
    lines = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def report_exceptions(pins: dict[str, str], installed: set[str]) -> None:
    """Print what the walk did not show."""
    python = sys.version.split()[0]
    for name in sorted(installed & PURE_SOURCE.keys()):
        print(f"exception: {name}: {PURE_SOURCE[name]}; built to a pure-Python wheel here, with Python {python}")
    for (name, system, machine), reason in COMPILED.items():
        print(f"exception: {name} on {system} {machine}: {reason}; not built here")
    for name in sorted(pins.keys() - installed):
        print(f"note: {name} is pinned, but no target needs it")
    print("Resolved only: nothing was installed, and nothing of another platform was run.")


def main() -> int:
    check = Check(read_pins(ROOT / "constraints.txt"))
    roots = read_roots(ROOT / "pyproject.toml")
    failed = False
    installed: set[str] = set()
    for system, machine in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")):
        for python in PYTHONS:
            target, started = Target(system, machine, python), time.monotonic()
            count, problems = check.run(target, roots)
            installed |= check.closure(target, roots)[0]
            words = f"{len(problems)} problem(s)" if problems else "every one has a wheel, or is an exception below"
            print(f"{target}: {count} packages: {words} ({time.monotonic() - started:.0f} s)", flush=True)
            for problem in problems:
                print(f"    {problem}")
            failed |= bool(problems)
    report_exceptions(check.pins, installed)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
