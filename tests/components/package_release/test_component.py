"""The KFP faces: the fine-tuned model and the bare base, from the store where nothing that decides them changed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.package_release.component import package_base, package_release
from components.rollout.config import RolloutConfig
from serving.release import read_golden, read_release


@pytest.fixture
def face(llama, tmp_path, capsys):
    """Runs a face with fields of RolloutConfig; gives whether the store had the result, and the output artifact."""

    def run(component, **fields):
        artifacts = {"base": llama.base, "examples": llama.examples}
        if component is package_release:
            artifacts["model"] = llama.adapter
        release = SimpleNamespace(path=str(tmp_path / "output"), metadata={})
        rollout = RolloutConfig(**({"golden_prompts": 1, "golden_tokens": 4} | fields))
        capsys.readouterr()
        component.python_func(
            run={"name": "test", "store": str(tmp_path / "store")},
            rollout=rollout.model_dump(),
            **{name: SimpleNamespace(path=str(path)) for name, path in artifacts.items()},
            release=release,
        )
        events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
        return events[-1] == "reused", release

    return run


def test_the_release_is_made_once_and_named_by_its_digest(face):
    reused, release = face(package_release)
    directory = Path(release.path) / "release"
    assert not reused
    assert release.metadata["digest"] == read_release(directory).digest
    assert [len(answer.token_ids) for answer in read_golden(directory)] == [4]
    assert face(package_release, port=8123, drain_seconds=1, service="another")[0]
    for changed in ({"golden_tokens": 5}, {"serving": {"engine": "openvino", "precision": "f16"}}):
        assert not face(package_release, **changed)[0]


def test_the_bare_base_needs_no_golden_answers(face):
    reused, release = face(package_base)
    assert not reused
    assert read_golden(Path(release.path) / "release") == []
    assert release.metadata["digest"] == read_release(Path(release.path) / "release").digest
    assert face(package_base, golden_tokens=5)[0]
    assert not face(package_base, serving={"engine": "transformers", "precision": "f32"})[0]
    assert not face(package_release)[0]
