"""Bases to fetch from, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.fetch_base.config import BaseConfig
from components.fetch_base.fetch import fetch_base
from serving.release import Origin
from tests.components.artifacts import make_base, make_champion, make_examples, make_release, one_thread, scratch

__all__ = ["one_thread"]  # applied to every test of this folder

Fetch = Callable[..., tuple[Path, Origin]]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves a model: weights, tokenizer, chat template."""
    directory = tmp_path_factory.mktemp("source")
    fetch_base(scratch(), directory, directory, directory)
    return directory / "model"


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy of `source` to spoil."""
    return shutil.copytree(source, tmp_path / "folder")


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """`fetch("source", …)` is the model directory and its origin; further fields are BaseConfig's."""
    count = iter(range(100))

    def fetch(
        source: str | Path, *, releases: Path = tmp_path / "releases", champion: Path = tmp_path, **fields
    ) -> tuple[Path, Origin]:
        directory = tmp_path / f"fetched-{next(count)}"
        origin = fetch_base(BaseConfig(source=str(source), **fields), releases, champion, directory)
        return directory / "model", origin

    return fetch


@pytest.fixture(scope="session")
def champions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of resolve_champion by the release's form: "gguf", "safetensors", and "none" when nothing is live."""
    root = tmp_path_factory.mktemp("champions")
    base = make_base(root / "base")
    examples = make_examples(root / "examples", base)
    forms = {
        "gguf": {"engine": "openvino", "precision": "q8_0"},
        "safetensors": {"engine": "transformers", "precision": "f32"},
    }
    released = {name: make_release(root / f"{name}-release", base, examples, **form) for name, form in forms.items()}
    return {name: make_champion(root / name, released.get(name)) for name in (*forms, "none")}
