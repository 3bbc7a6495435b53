"""The images as they are: built without a Docker daemon, pushed, run by digest as nobody on a read-only root."""

from __future__ import annotations

import json

import httpx
import pytest

from images.engine import Buildah
from tests.cluster import images, jobs
from tests.cluster.harness import Cluster
from tests.cluster.place import Place

pytestmark = pytest.mark.cluster

# What each image says of itself from inside, one JSON line.
PROBE = """
import importlib.util, json, os, pathlib, shutil, sys
def writable(folder):
    try:
        (pathlib.Path(folder) / "probe").write_text("")
        return True
    except OSError:
        return False
print(json.dumps({
    "user": os.getuid(),
    "writable": [folder for folder in ("/", "/opt/venv", "/opt/slipway", "/etc", "/tmp") if writable(folder)],
    "tools": [tool for tool in ("gcc", "cc", "g++", "make", "pip", "apt-get", "git", "curl") if shutil.which(tool)],
    "modules": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "environment": sorted(os.environ),
    "secrets": [str(path) for path in pathlib.Path("/run/secrets").rglob("*") if path.is_file()],
}))
"""
MODULES = ("torch", "transformers", "kfp", "mlflow", "kserve", "openvino_genai", "serving", "components", "pipelines")


@pytest.fixture(scope="module")
def references(cluster: Cluster) -> dict[str, str]:
    return {name: images.build(name, cluster.place) for name in ("serving", "components")}


def look_inside(cluster: Cluster, name: str, reference: str) -> dict[str, list[str]]:
    # what fails inside says so in the log; the image itself takes a while to be unpacked the first time
    ended = jobs.run(cluster, f"probe-{name}", jobs.pod(reference, ["python", "-c", PROBE, *MODULES]), seconds=300)
    assert ended.code == 0, ended.log
    return json.loads(ended.log)


def test_the_serving_image_holds_the_server_and_no_more(cluster: Cluster, references: dict[str, str]):
    seen = look_inside(cluster, "serving", references["serving"])
    assert seen["modules"] == ["kserve", "openvino_genai", "serving"]
    assert seen["user"] == 65532 and seen["writable"] == ["/tmp"] and seen["secrets"] == []
    assert set(seen["tools"]) <= {"apt-get"}, "the base's own"
    assert not [name for name in seen["environment"] if "PIP" in name or "CERT" in name]


def test_the_components_image_holds_all_that_steps_import(cluster: Cluster, references: dict[str, str]):
    seen = look_inside(cluster, "components", references["components"])
    assert seen["modules"] == list(MODULES)
    assert seen["user"] == 65532 and seen["writable"] == ["/tmp"] and seen["secrets"] == []
    assert not {"gcc", "cc", "g++", "make", "pip"} & set(seen["tools"])


def test_every_step_can_be_imported_in_its_image(cluster: Cluster, references: dict[str, str]):
    """With torch, whose CUDA libraries are opened here and not before."""
    code = "import torch, openvino_genai, mlflow, datasets, peft, transformers.models.llama.modeling_llama, kfp; " + (
        "import components.finetune.train, components.evaluate.evaluate, components.package_release.package; "
        "import components.prepare_data.prepare, components.rollout.deliver; print(torch.ones(2).sum().item())"
    )
    ended = jobs.run(cluster, "imports", jobs.pod(references["components"], ["python", "-c", code]), seconds=300)
    assert (ended.code, ended.log.splitlines()[-1]) == (0, "2.0"), ended.log


def test_the_command_line_is_there_for_jobs_of_the_cluster(cluster: Cluster, references: dict[str, str]):
    ended = jobs.run(cluster, "command", jobs.pod(references["components"], ["slipway", "--help"]), seconds=120)
    assert ended.code == 0 and "rollout" in ended.log


def test_the_server_tells_in_words_what_it_cannot_serve(cluster: Cluster, references: dict[str, str]):
    """By the image's own entry point."""
    spec = jobs.pod(references["serving"], [])
    del spec["containers"][0]["command"]
    spec["containers"][0]["args"] = ["--release", "/nowhere", "--model", "m", "--host", "0.0.0.0", "--port", "8080"]
    ended = jobs.run(cluster, "entry", spec, seconds=120)
    assert ended.code == 1 and ended.log.splitlines()[-1].startswith("serving: "), ended.log


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each command of the builder is about, as they come; they are carried out."""
    given: list[str] = []

    def run(builder: images.Builder, subject: str, command: list[str]) -> None:
        given.append(subject)
        Buildah.run(builder, subject, command)

    monkeypatch.setattr(images.Builder, "run", run)
    return given


def test_an_image_that_the_registry_has_is_not_built_again(cluster: Cluster, commands: list[str]):
    reference = images.build("serving", cluster.place)
    commands.clear()
    assert images.build("serving", cluster.place) == reference
    assert commands == []


def test_a_reference_names_what_the_registry_serves_under_that_digest(cluster: Cluster, references: dict[str, str]):
    for reference in references.values():
        registry, _, rest = reference.partition("/")
        repository, _, digest = rest.partition("@")
        told = httpx.get(f"http://{registry}/v2/{repository}/manifests/{digest}", headers={"Accept": images.MANIFEST})
        assert told.status_code == 200 and told.headers["Docker-Content-Digest"] == digest
        blob = httpx.get(f"http://{registry}/v2/{repository}/blobs/{told.json()['config']['digest']}")
        config = blob.json()["config"]
        assert config["User"] == "65532:65532"
        assert config["Labels"]["org.opencontainers.image.version"] == images.version()
        assert not [entry for entry in config["Env"] if "PIP" in entry or "CERT" in entry]


def test_the_components_tags_are_those_that_a_compiled_pipeline_names(cluster: Cluster, references: dict[str, str]):
    """components/images.py names version and flavour; the digest behind the tag is the one just built."""
    image = images.IMAGES["components"]
    digest = images.pushed(cluster.registry, image, f"{images.version()}-cpu")
    assert references["components"].endswith(digest)


def test_a_base_is_made_where_none_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, commands: list[str]):
    """Debian's smallest system with its Python, and `python` as in the public base."""
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    builder = images.Builder(Place())
    reference = images.base_image(builder)
    assert builder.has(reference)
    commands.clear()
    assert images.base_image(builder) == reference
    assert commands == []
