"""The KFP face: what the store reuses and what it makes again."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.fetch_base.component import fetch_base
from tests.components.artifacts import scratch


@pytest.fixture
def face(tmp_path, capsys):
    """Runs the face; True when the store had the result already."""

    def run(base: dict, champion: Path) -> tuple[bool, SimpleNamespace]:
        model = SimpleNamespace(path=str(tmp_path / "output"), metadata={})
        settings = {"name": "test", "store": str(tmp_path / "store")}
        capsys.readouterr()
        fetch_base.python_func(run=settings, base=base, champion=SimpleNamespace(path=str(champion)), model=model)
        events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
        return events[-1] == "reused", model

    return run


def test_the_same_base_is_fetched_once(face, champions):
    base = scratch().model_dump()
    reused, model = face(base, champions["none"])
    assert not reused and model.metadata == {"source": "scratch"}
    assert (Path(model.path) / "model" / "model.safetensors").is_file()
    assert json.loads((Path(model.path) / "origin.json").read_bytes())["source"] == "scratch"
    assert face(base, champions["gguf"])[0]  # a scratch model does not ask what is live
    base["scratch"]["seed"] = 1
    assert not face(base, champions["none"])[0]


def test_another_corpus_is_another_base(face, champions, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A heat pump moves warmth.\n" * 9)
    base = scratch(corpus=[str(corpus)]).model_dump()
    assert not face(base, champions["none"])[0]
    corpus.write_text("Insulation keeps warmth in.\n" * 9)
    assert not face(base, champions["none"])[0]
    assert face(base, champions["none"])[0]


def test_another_champion_is_another_base(face, champions):
    base = {"source": "release:champion"}
    assert not face(base, champions["gguf"])[0]
    assert face(base, champions["gguf"])[0]
    assert not face(base, champions["safetensors"])[0]


def test_a_changed_folder_is_another_base(face, champions, source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "folder")
    base = {"source": str(folder)}
    assert not face(base, champions["none"])[0]
    assert face(base, champions["none"])[0]
    (folder / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text() + " ")
    assert not face(base, champions["none"])[0]
