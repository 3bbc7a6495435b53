"""What buildah and docker are told, seen through programs that write down how they were called."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from images.engine import Buildah, Docker, Engine, Order, choose
from images.errors import ImageError

FAKE = """#!{python}
import json, os, pathlib, sys
arguments = sys.argv[1:]
secrets = [a.partition("src=")[2] for a in arguments if a.startswith("--secret=")]
told = {{"arguments": arguments, "secrets": {{pathlib.Path(s).name: pathlib.Path(s).read_text() for s in secrets}}}}
with open("{log}", "a") as log:
    log.write(json.dumps(told) + "\\n")
answers = json.loads(pathlib.Path("{answers}").read_text())
for start, answer in answers.items():
    if " ".join(arguments).startswith(start):
        if answer is None:
            print("it went wrong", file=sys.stderr)
            sys.exit(125)
        if answer.endswith(".tar"):
            sys.stdout.buffer.write(pathlib.Path(answer).read_bytes())
        else:
            print(answer)
for argument in arguments:
    if argument.startswith("--digestfile="):
        pathlib.Path(argument.partition("=")[2]).write_text("sha256:pushed")
"""


@pytest.fixture(params=["buildah", "docker"])
def program(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / request.param
    fake.write_text(FAKE.format(python=sys.executable, log=tmp_path / "calls", answers=tmp_path / "answers"))
    fake.chmod(0o755)
    (tmp_path / "answers").write_text("{}")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.delenv("ENGINE", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:word@packages.example/simple")
    return request.param


def answer(tmp_path: Path, **answers: str | None) -> None:
    (tmp_path / "answers").write_text(json.dumps({start.replace("_", " "): told for start, told in answers.items()}))


def calls(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line)["arguments"] for line in (tmp_path / "calls").read_text().splitlines()]


ORDER = Order("serving", "serving/Dockerfile", "serving", "localhost/slipway-serving:0", {"BASE_IMAGE": "base"})


def test_the_one_that_is_here_is_taken(program: str, tmp_path: Path):
    assert choose("", tmp_path).name == program
    other = {"buildah": "docker", "docker": "buildah"}[program]
    with pytest.raises(ImageError, match=f"{other} is not installed"):
        choose(other, tmp_path)


def test_a_build_names_stage_base_and_secrets_and_keeps_no_address_in_its_arguments(program: str, tmp_path: Path):
    choose("", tmp_path).build(ORDER)
    told = json.loads((tmp_path / "calls").read_text())
    assert {"--target=serving", "--tag=localhost/slipway-serving:0", "--build-arg=BASE_IMAGE=base"} <= set(
        told["arguments"]
    )
    assert told["arguments"][:2] == {"buildah": ["bud", "--isolation=chroot"], "docker": ["buildx", "build"]}[program]
    assert "user:word@packages.example" in told["secrets"]["pip.conf"]
    assert "packages.example" not in " ".join(told["arguments"])
    gone = [one.partition("src=")[2] for one in told["arguments"] if one.startswith("--secret=")]
    assert gone and not any(os.path.exists(path) for path in gone)


def test_a_build_that_fails_tells_the_end_of_its_log(program: str, tmp_path: Path):
    answer(tmp_path, bud=None, buildx=None)
    with pytest.raises(
        ImageError, match=r"(?s)failed for serving; all of it is in .*serving\.log, the end:\nit went wrong"
    ):
        choose("", tmp_path).build(ORDER)


def test_the_digest_that_was_pushed_is_told(program: str, tmp_path: Path):
    answer(tmp_path, image_inspect=json.dumps(["elsewhere/x@sha256:other", "r.example/slipway@sha256:pushed"]))
    assert choose("", tmp_path).push("localhost/x:0", "r.example/slipway", ["a", "b"]) == "sha256:pushed"
    pushed = [call[-1] for call in calls(tmp_path) if call[0] == "push"]
    assert [one.rpartition(":")[2] for one in pushed] == ["a", "b"]
    assert not [call for call in calls(tmp_path) if "--tls-verify=false" in call]


@pytest.fixture(params=["Debian 12's Python", "3.11.4"])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2 has no filters for archives."""
    if request.param != "3.11.4":
        monkeypatch.delattr(tarfile, "data_filter")
        monkeypatch.delattr(tarfile.TarInfo, "replace")


@pytest.mark.usefixtures("python")
@pytest.mark.parametrize("program", ["docker"], indirect=True)
def test_docker_shows_files_without_what_leads_out_of_the_folder(program: str, tmp_path: Path):
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        for name, mode in (("usr/bin/su", 0o4755), ("opt/secret", 0o000)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 2, mode
            archive.addfile(member, io.BytesIO(b"x\n"))
        link = tarfile.TarInfo("var/run")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        for name in ("var/run/escaped", "../escaped", f"{tmp_path}/escaped"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
        stolen = tarfile.TarInfo("stolen")
        stolen.type, stolen.linkname = tarfile.LNKTYPE, "../answers"
        archive.addfile(stolen)
    answer(tmp_path, create="container", export=str(tmp_path / "root.tar"))
    with choose("", tmp_path / "logs").root("localhost/x:0") as root:
        assert (root / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755
        assert (root / "opt/secret").read_text() == "x\n"
        assert not (root / "var/run").is_symlink() and not (root / "stolen").exists()
        assert not (root.parent / "escaped").exists()
    assert not (tmp_path / "escaped").exists() and not root.exists()
    assert calls(tmp_path)[-1] == ["rm", "container"]


@pytest.mark.parametrize("program", ["buildah"], indirect=True)
def test_buildah_gives_the_container_back_whatever_happens(program: str, tmp_path: Path):
    answer(tmp_path, **{"from": "container", "mount": str(tmp_path)})

    def look(engine: Engine) -> None:
        with engine.root("localhost/x:0") as root:
            assert root == tmp_path
            raise KeyError

    with pytest.raises(KeyError):
        look(choose("", tmp_path))
    assert calls(tmp_path)[-1] == ["rm", "container"]


def test_older_images_of_a_name_go_and_others_stay(program: str, tmp_path: Path):
    names = [
        "localhost/slipway-serving:old",
        "localhost/slipway-serving:new",
        "localhost/slipway-serving-dependencies:0",
    ]
    known = json.dumps([{"names": names}, {"names": None}]) if program == "buildah" else "\n".join(names[:2])
    answer(tmp_path, images=known, image_ls=known)
    choose("", tmp_path).forget("localhost/slipway-serving", keep="localhost/slipway-serving:new")
    removed = [call[-1] for call in calls(tmp_path) if "rmi" in call or "rm" in call]
    assert removed == ["localhost/slipway-serving:old"]


def test_what_is_known_of_an_image(program: str, tmp_path: Path):
    if program == "buildah":
        told = json.dumps({"FromImageID": "abc", "OCIv1": {"config": {"User": "1:1"}}})
    else:
        told = json.dumps([{"Id": "sha256:abc", "Config": {"User": "1:1"}}])
    answer(tmp_path, inspect=told, image_inspect=told)
    engine = choose("", tmp_path)
    assert (engine.identity("x"), engine.config("x"), engine.has("x")) == ("sha256:abc", {"User": "1:1"}, True)
    answer(tmp_path, inspect=None, image_inspect=None)
    assert not engine.has("x")
    with pytest.raises(ImageError, match="it went wrong"):
        engine.identity("x")


def test_both_do_all_that_is_asked():
    assert not Buildah.__abstractmethods__ and not Docker.__abstractmethods__
