"""The first step: the last look at a run's configuration, and what is live."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.resolve_champion.component import resolve_champion
from components.resolve_champion.resolve import resolve, validate
from components.rollout import deliver, local
from components.rollout.config import RolloutConfig
from components.step_config import InputError, RunSettings
from components.store import Store
from serving.release import Origin, Release, ServingForm, payload_files

PARAMETERS = {
    "run": {"name": "t"},
    "data": {"sources": ["data.jsonl"]},
    "base": {"source": "some/folder"},
    "training": {"rank": 16.0},  # KFP turns integers into floats
    "evaluation": {},
    "gate": {},
    "rollout": {"port": 8123.0},
}


@pytest.fixture(autouse=True)
def _outside_of_a_cluster(monkeypatch):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)


@pytest.fixture
def store(tmp_path):
    return Store(RunSettings(name="t", store=str(tmp_path / "store")))


@pytest.fixture
def release(store):
    """A release in the store that the local target remembers as live."""
    beside = store.root / "made"
    beside.mkdir(parents=True)
    (beside / "weights").write_text("1 2 3")
    made = Release(
        serving=ServingForm(),
        base=Origin(source="scratch", digest="sha256:base"),
        data_digest="sha256:data",
        context_length=64,
        end_token_ids=[0],
        files=payload_files(beside),
    )
    (beside / "release.json").write_bytes(made.canonical())
    deliver.adopt(store, beside, made.digest)
    local.LocalTarget(store, RolloutConfig()).promote(made.digest)
    return made.digest


def test_nothing_is_live_at_first(store, tmp_path):
    champion = resolve(store, RolloutConfig(), tmp_path / "champion")
    assert champion.digest is None
    assert json.loads((tmp_path / "champion/champion.json").read_text()) == {"digest": None, "service": "energy-chat"}
    assert not (tmp_path / "champion/release").exists()


def test_the_live_release_is_linked_not_copied(store, release, tmp_path):
    champion = resolve(store, RolloutConfig(), tmp_path / "champion")
    assert champion.digest == release
    linked = tmp_path / "champion/release/weights"
    assert linked.samefile(store.release(release) / "weights")
    assert resolve(store, RolloutConfig(), tmp_path / "champion") == champion


def test_another_service_has_its_own_champion(store, release, tmp_path):
    assert resolve(store, RolloutConfig(service="another"), tmp_path / "champion").digest is None


def test_a_live_release_that_is_gone_is_said_in_words(store, release, tmp_path):
    (store.release(release) / "release.json").unlink()
    with pytest.raises(InputError, match=rf"release {release} is damaged or missing: .*put its files back, or go to"):
        resolve(store, RolloutConfig(), tmp_path / "champion")


def test_a_live_release_that_is_damaged_is_said_in_words(store, release, tmp_path):
    (store.release(release) / "weights").write_text("9 9 9")
    with pytest.raises(InputError, match="weights has sha256"):
        resolve(store, RolloutConfig(), tmp_path / "champion")


def test_a_directory_that_holds_another_release_is_refused(store, release):
    place = store.release("sha256:" + "1" * 64)
    store.release(release).rename(place)
    with pytest.raises(InputError, match=f"holds release {release}, not sha256:111"):
        deliver.verify(store, "sha256:" + "1" * 64, RolloutConfig())


def test_all_seven_parameters_go_through_their_schemas():
    configs = validate(PARAMETERS)
    assert list(configs) == ["run", "data", "base", "training", "evaluation", "gate", "rollout"]
    assert configs["training"].rank == 16 and configs["rollout"].port == 8123


@pytest.mark.parametrize(
    ("parameter", "change", "words"),
    [
        ("run", {"colour": 1}, "run.colour: there is no such key"),
        ("data", {"sources": []}, r"data.sources: \[\]: List should have at least 1 item"),
        ("base", {"source": ""}, "base.source: '': .*source is empty"),
        ("training", {"rank": 0}, "training.rank: 0: Input should be greater than or equal to 1"),
        ("evaluation", {"samples": "many"}, "evaluation.samples: 'many': Input should be a valid integer"),
        ("gate", {"bounds": [{"metric": "rouge", "at_most": 1}]}, r"gate.bounds.0.metric: 'rouge'"),
        ("rollout", {"service": "Energy Chat"}, "rollout.service: 'Energy Chat'"),
    ],
)
def test_a_mistake_in_any_parameter_is_one_line(parameter, change, words):
    with pytest.raises(InputError, match=words):
        validate(PARAMETERS | {parameter: PARAMETERS[parameter] | change})


def test_every_mistake_is_named_at_once():
    with pytest.raises(InputError, match=r"run.name: is missing; gate.margin: 0: .*"):
        validate(PARAMETERS | {"run": {}, "gate": {"margin": 0}})


def test_examples_longer_than_a_model_from_scratch_reads_are_refused():
    scratch = {"vocabulary": 512, "layers": 2, "width": 64, "heads": 4, "context_length": 128, "corpus": ["c.txt"]}
    parameters = PARAMETERS | {"base": {"source": "scratch", "scratch": scratch}}
    words = r"^data.max_tokens 129 is more than base.scratch.context_length 128$"
    with pytest.raises(InputError, match=words):
        validate(parameters | {"data": {"sources": ["data.jsonl"], "max_tokens": 129}})
    validate(parameters | {"data": {"sources": ["data.jsonl"], "max_tokens": 128}})


def test_a_cluster_is_not_a_machine_that_serves(monkeypatch, tmp_path):
    here = {"name": "t", "store": str(tmp_path)}
    validate(PARAMETERS)
    monkeypatch.setenv("KFP_POD_NAME", "resolve-champion-1")
    with pytest.raises(InputError, match=r"the local target serves on one machine; it cannot roll out from a cluster$"):
        validate(PARAMETERS | {"run": here})
    with pytest.raises(
        InputError, match=r"run\.store: '\.slipway': it ends with its pod; .*; rollout\.target: 'local'"
    ):
        validate(PARAMETERS)


def test_the_face_validates_before_it_looks(tmp_path, capsys):
    champion = SimpleNamespace(path=str(tmp_path / "champion"))
    run = {"name": "t", "store": str(tmp_path / "store")}
    with pytest.raises(InputError, match=r"rollout\.port"):
        resolve_champion.python_func(**PARAMETERS | {"run": run, "rollout": {"port": 0}}, champion=champion)
    assert not (tmp_path / "champion").exists()
    resolve_champion.python_func(**PARAMETERS | {"run": run}, champion=champion)
    assert json.loads(Path(tmp_path / "champion/champion.json").read_text())["digest"] is None
    assert '"event": "champion"' in capsys.readouterr().out


def test_validating_needs_nothing_heavy():
    heavy = "{'torch', 'transformers', 'kfp', 'httpx', 'scipy', 'pandas'}"
    program = f"import sys, components.resolve_champion.resolve; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
