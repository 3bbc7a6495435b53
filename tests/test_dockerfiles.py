"""What the Dockerfiles say, without building them; tests/cluster/test_images.py runs what they make."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from images import catalogue
from images.secrets import build_secrets
from tests.cluster import images
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted({image.dockerfile for image in images.IMAGES.values()})
RELEASE = "images/release.Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE_PACKAGES = {"kfp-server-api"}
"""Plain Python, published as source only."""


def instructions(text: str) -> list[tuple[str, str, str]]:
    """(stage, keyword, rest of the line) of each instruction, comments left out and continued lines joined."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found: list[tuple[str, str, str]] = []
    stage = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        stage = rest.rpartition(" AS ")[2] if keyword == "FROM" else stage
        if keyword:
            found.append((stage, keyword, rest))
    return found


def of(dockerfile: str) -> list[tuple[str, str, str]]:
    return instructions((ROOT / dockerfile).read_text())


def lineage(dockerfile: str, target: str) -> list[tuple[str, str]]:
    """(keyword, rest) of what ends up in a target: its own stage and those that it is FROM."""
    bases = {rest.rpartition(" AS ")[2]: rest.split()[0] for _, word, rest in of(dockerfile) if word == "FROM"}
    stages = [target]
    while bases[stages[0]] in bases:
        stages.insert(0, bases[stages[0]])
    return [(keyword, rest) for stage in stages for at, keyword, rest in of(dockerfile) if at == stage]


def copied(dockerfile: str) -> set[str]:
    """Files and folders that are taken from the project."""
    lines = [rest.split()[:-1] for _, keyword, rest in of(dockerfile) if keyword == "COPY"]
    return {name for line in lines if not line[0].startswith("--from") for name in line}


def mistakes(text: str) -> list[str]:
    """What a Dockerfile must not say, one line each."""
    found = [f"address: {address}" for address in re.findall(r"https?://\S+", text)]
    stages = instructions(text)
    names = {rest.rpartition(" AS ")[2] for _, keyword, rest in stages if keyword == "FROM"}
    for stage, keyword, rest in stages:
        if keyword == "FROM" and rest.split()[0] not in {"${BASE_IMAGE}", "${SERVING_IMAGE}", *names}:
            found.append(f"{rest.split()[0]} is no base that a digest can be given for")
        if keyword == "ADD":
            found.append("ADD may fetch and unpack; COPY does neither")
        if keyword in ("ARG", "ENV", "LABEL"):
            kept = re.findall(r"([\w.]+)=", rest) or [rest]
            found += [
                f"keeps {name}" for name in kept if re.search("PIP|INDEX|TOKEN|CERT|PASSWORD|PROXY", name.upper())
            ]
        if keyword == "RUN":
            found += [f"{stage}: {mistake}" for mistake in _of_run(rest)]
    return found


def _of_run(rest: str) -> list[str]:
    found = []
    if program := re.search(r"\b(apt-get|apk|curl|wget|gcc|make)\b", rest):
        found.append(f"{program[1]} brings what no hash names, or builds")
    for command in rest.split("&&"):
        if "pip install" not in command or "--no-deps" in command:
            continue
        if not {"id=pip.conf", "id=ca-bundle"} <= set(re.findall(r"id=[\w.-]+", rest)):
            found.append("pip is not told where packages are by a secret, which no layer keeps")
        if "--require-hashes" not in command:
            found.append("pip installs without hashes")
        if "--only-binary :all:" not in command:
            found.append("pip may build")
        if (source := set(re.findall(r"--no-binary (\S+)", command))) - SOURCE_PACKAGES:
            found.append(f"pip builds {', '.join(sorted(source))}")
        if source and "--no-build-isolation" not in command:
            found.append("pip fetches what builds, without hashes")
    return found


@pytest.mark.parametrize("dockerfile", [*DOCKERFILES, RELEASE])
def test_a_dockerfile_takes_nothing_unchecked_and_keeps_no_secret(dockerfile: str):
    assert mistakes((ROOT / dockerfile).read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FROM ${BASE_IMAGE} AS package", "FROM python:3.11 AS package", "python:3.11 is no base"),
        ("COPY serving serving", "ADD serving serving", "ADD may fetch"),
        ("HOME=/tmp", "HOME=/tmp \\\n    PIP_INDEX_URL=x", "keeps PIP_INDEX_URL"),
        ("ARG VERSION", "ARG HF_TOKEN\nARG VERSION", "keeps HF_TOKEN"),
        ("# a number", "RUN curl packages.example\n# a number", "steps: curl brings"),
        ("python3 -m venv /opt/venv &&", "apt-get install -y gcc && python3 -m venv /opt/venv &&", "apt-get brings"),
        ("--mount=type=secret,id=pip.conf", "", "pip is not told where packages are"),
        ("--require-hashes", "", "pip installs without hashes"),
        ("--only-binary :all:", "", "pip may build"),
        ("--no-binary kfp-server-api", "--no-binary numpy", "pip builds numpy"),
        ("--no-build-isolation --use-pep517", "--use-pep517", "pip fetches what builds"),
        ("# optional", "# see https://packages.example/simple\n# optional", "address: https://packages.example/simple"),
    ],
)
def test_a_planted_mistake_is_found(old: str, new: str, said: str):
    text = (ROOT / "components/Dockerfile").read_text()
    assert old in text
    assert said in "\n".join(mistakes(text.replace(old, new, 1)))


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_an_image_that_stays_the_same_was_made_of_what_the_dockerfile_copies(image: images.Image):
    """Else a change in a file that is copied would leave the old image in use."""
    assert copied(image.dockerfile) <= {*catalogue.FILES, *image.folders, *image.locks}
    assert copied(image.dockerfile) >= {*image.folders, *image.locks}


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_a_change_of_the_code_makes_another_image(image: images.Image, tmp_path: Path):
    code = f"{image.folders[0]}/__init__.py"
    for name in (*catalogue.FILES, *image.locks, ".dockerignore", image.dockerfile, code):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    before = catalogue.sources_digest(image, tmp_path)
    (tmp_path / image.folders[0] / "__pycache__").mkdir()
    (tmp_path / image.folders[0] / "__pycache__/left.pyc").write_bytes(b"of another interpreter")
    assert catalogue.sources_digest(image, tmp_path) == before
    (tmp_path / image.folders[0] / "new.py").write_text("")
    assert catalogue.sources_digest(image, tmp_path) != before


def allowed(text: str) -> tuple[set[str], list[str]]:
    """(what .dockerignore lets in, what it refuses of that)."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    last = max(number for number, line in enumerate(lines) if line.startswith("!"))
    return {line.removeprefix("!") for line in lines if line.startswith("!")}, lines[last + 1 :]


def test_the_build_takes_in_nothing_but_what_is_copied():
    """Data, results, secrets and history stay outside: .dockerignore names what may come in, and refuses the rest."""
    let_in, refused = allowed((ROOT / ".dockerignore").read_text())
    wanted = set().union(*(copied(dockerfile) for dockerfile in DOCKERFILES))
    assert {name for name in wanted if not {name, str(Path(name).parent)} & let_in} == set(), "cannot be copied"
    assert {
        name for name in let_in if not [one for one in wanted if one == name or one.startswith(f"{name}/")]
    } == set()
    assert {"**/.env", "**/.env.*", "**/*.key", "**/*.pem", "**/__pycache__"} <= set(refused), "a later line wins"


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_an_image_runs_as_a_user_with_a_number_who_is_not_root(image: images.Image):
    users = [rest for keyword, rest in lineage(image.dockerfile, image.target) if keyword == "USER"]
    assert users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_the_image_with_a_release_stays_the_server_s_user():
    of_server = [rest for keyword, rest in lineage("serving/Dockerfile", "serving") if keyword == "USER"]
    assert [rest for _, keyword, rest in of(RELEASE) if keyword == "USER"] == of_server[-1:]


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_an_image_says_what_it_is(image: images.Image):
    labels = " ".join(rest for keyword, rest in lineage(image.dockerfile, image.target) if keyword == "LABEL")
    said = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))
    assert {"title", "description", "licenses", "source", "revision", "version"} <= said
    assert f'licenses="{PROJECT["license"]}"' in labels


def test_a_private_index_and_its_certificates_reach_the_build_as_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:word@packages.example/simple")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with build_secrets() as secrets:
        told = secrets["pip.conf"].read_text()
        assert "index-url = https://user:word@packages.example/simple\n" in told
        assert "cert = /run/secrets/ca-bundle\n" in told and secrets["ca-bundle"].read_text() == "certificates\n"
        assert str(tmp_path) not in told, "a folder of this machine means nothing in the build"
    assert not secrets["pip.conf"].exists()


def test_a_registry_that_is_not_there_is_told():
    with pytest.raises(images.ImageError, match=r"no registry answers at 127\.0\.0\.1:\d+ .*make cluster"):
        images.pushed(f"127.0.0.1:{free_port()}", images.IMAGES["serving"], "0123")
