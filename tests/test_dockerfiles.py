"""What the Dockerfiles say, without building them; tests/cluster/test_images.py runs what they make."""

import json
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cluster import images

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted({image.dockerfile for image in images.IMAGES.values()})
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(dockerfile: str) -> list[tuple[str, str, str]]:
    """(stage, keyword, rest of the line) of each instruction, comments left out and continued lines joined."""
    text = "\n".join(line for line in (ROOT / dockerfile).read_text().splitlines() if not line.startswith("#"))
    found: list[tuple[str, str, str]] = []
    stage = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        stage = rest.rpartition(" AS ")[2] if keyword == "FROM" else stage
        if keyword:
            found.append((stage, keyword, rest))
    return found


def lineage(dockerfile: str, target: str) -> list[tuple[str, str]]:
    """(keyword, rest) of what ends up in a target: its own stage and those that it is FROM."""
    bases = {
        rest.rpartition(" AS ")[2]: rest.split()[0] for _, word, rest in instructions(dockerfile) if word == "FROM"
    }
    stages = [target]
    while bases[stages[0]] in bases:
        stages.insert(0, bases[stages[0]])
    return [(keyword, rest) for stage in stages for at, keyword, rest in instructions(dockerfile) if at == stage]


def copied(dockerfile: str) -> set[str]:
    """Files and folders that are taken from the project."""
    lines = [rest.split()[:-1] for _, keyword, rest in instructions(dockerfile) if keyword == "COPY"]
    return {name for line in lines if not line[0].startswith("--from") for name in line}


def requirements(dockerfile: str, folder: Path) -> list[str]:
    """What the Dockerfile's own script takes out of pyproject.toml."""
    (script,) = [
        rest for stage, keyword, rest in instructions(dockerfile) if (stage, keyword) == ("requirements", "RUN")
    ]
    program, flag, code = json.loads(script)
    assert (program, flag) == ("python3", "-c")
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run([sys.executable, "-c", code.replace("/tmp/", f"{folder}/")], check=True)
    return (folder / "requirements.txt").read_text().splitlines()


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_an_image_that_stays_the_same_was_made_of_what_the_dockerfile_copies(image: images.Image):
    """Else a change in a file that is copied would leave the old image in use."""
    assert copied(image.dockerfile) <= {*images.FILES, *image.folders}


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_a_change_of_the_code_makes_another_image(image: images.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (*images.FILES, ".dockerignore", image.dockerfile, f"{image.folders[0]}/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(images, "ROOT", tmp_path)
    before = images.sources_digest(image)
    (tmp_path / image.folders[0] / "__pycache__").mkdir()
    (tmp_path / image.folders[0] / "__pycache__/left.pyc").write_bytes(b"of another interpreter")
    assert images.sources_digest(image) == before
    (tmp_path / image.folders[0] / "new.py").write_text("")
    assert images.sources_digest(image) != before


def test_the_build_takes_in_nothing_but_what_is_copied():
    """Data, results, secrets and history stay outside: .dockerignore names what may come in, and refuses the rest."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == set().union(*(copied(dockerfile) for dockerfile in DOCKERFILES))
    assert lines.index("**/.env") > max(lines.index(f"!{name}") for name in allowed), "a later line wins"


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_an_image_runs_as_a_user_with_a_number_who_is_not_root(image: images.Image):
    users = [rest for keyword, rest in lineage(image.dockerfile, image.target) if keyword == "USER"]
    assert users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_an_image_says_what_it_is(image: images.Image):
    labels = " ".join(rest for keyword, rest in lineage(image.dockerfile, image.target) if keyword == "LABEL")
    said = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))
    assert {"title", "description", "licenses", "source", "revision", "version"} <= said
    assert f'licenses="{PROJECT["license"]}"' in labels


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_no_address_and_no_secret_stands_in_a_dockerfile(dockerfile: str):
    """What a machine needs to reach packages comes as a secret mount, which no layer keeps."""
    assert not re.search(r"https?://", (ROOT / dockerfile).read_text())
    kept = " ".join(rest for _, keyword, rest in instructions(dockerfile) if keyword in ("ARG", "ENV", "LABEL"))
    names = re.findall(r"([\w.]+)=", kept)
    assert not [name for name in names if re.search("PIP|INDEX|TOKEN|CERT|PASSWORD|PROXY", name.upper())]
    for _, keyword, rest in instructions(dockerfile):
        if keyword == "RUN" and "pip install" in rest and "--no-deps" not in rest:
            assert {"id=pip.conf", "id=ca-bundle"} <= set(re.findall(r"id=[\w.-]+", rest)), rest


def test_the_server_is_installed_without_a_training_library(tmp_path: Path):
    wanted = requirements("serving/Dockerfile", tmp_path)
    assert wanted == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["serving"]
    assert not [line for line in wanted if re.match("torch|transformers|peft|datasets|mlflow", line)]


def test_the_steps_are_installed_with_what_they_import_and_what_starts_them(tmp_path: Path):
    wanted = requirements("components/Dockerfile", tmp_path)
    extras = PROJECT["optional-dependencies"]
    assert set(PROJECT["dependencies"] + extras["steps"] + extras["serving"]) <= set(wanted)
    assert [line for line in wanted if line.startswith("kfp")] == [f"kfp=={pinned('kfp')}"]


def pinned(package: str) -> str:
    (line,) = [one for one in (ROOT / "constraints.txt").read_text().splitlines() if one.startswith(f"{package}==")]
    return line.partition("==")[2]


def test_a_private_index_and_its_certificates_reach_the_build_as_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:word@packages.example/simple")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with images.build_secrets() as secrets:
        told = secrets["pip.conf"].read_text()
        assert "index-url = https://user:word@packages.example/simple\n" in told
        assert "cert = /run/secrets/ca-bundle\n" in told and secrets["ca-bundle"].read_text() == "certificates\n"
        assert str(tmp_path) not in told, "a folder of this machine means nothing in the build"
    assert not secrets["pip.conf"].exists()


def test_a_registry_that_is_not_there_is_told(free_port: int):
    with pytest.raises(images.ImageError, match=r"no registry answers at 127\.0\.0\.1:\d+ .*make cluster"):
        images.pushed(f"127.0.0.1:{free_port}", images.IMAGES["serving"], "0123")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
