"""Bases, examples and trained models to package, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.components.artifacts import make_adapter, make_base, make_examples, make_full


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models are computed faster on one thread, above all where others compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Trained(NamedTuple):
    """What package_release is given."""

    base: Path
    examples: Path
    adapter: Path
    full: Path


def _trained(root: Path, architecture: str) -> Trained:
    base = make_base(root / "base", architecture)
    adapter, full = make_adapter(root / "adapter", base), make_full(root / "full", base)
    return Trained(base, make_examples(root / "examples", base), adapter, full)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _trained(tmp_path_factory.mktemp("gpt2"), "gpt2")
