"""Bases, examples and trained models to package, made once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.components.artifacts import make_adapter, make_base, make_examples, make_full, one_thread

__all__ = ["one_thread"]  # applied to every test of this folder


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
