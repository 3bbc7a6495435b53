"""Releases to score, made once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.components.artifacts import make_adapter, make_base, make_champion, make_examples, make_release, one_thread

__all__ = ["one_thread"]  # applied to every test of this folder

Q8_0 = {"engine": "openvino", "precision": "q8_0"}


class Inputs(NamedTuple):
    """What evaluate is given, and two champions to choose from."""

    base: Path
    challenger: Path
    examples: Path
    none: Path
    """Nothing is live."""
    champion: Path
    """A model with another tokenizer and another system prompt is live."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("evaluate")
    base = make_base(root / "base")
    examples = make_examples(root / "examples", base)
    older = make_base(root / "older", seed=5, vocabulary=450)
    # its data had another prompt
    others = make_examples(root / "older-examples", older, system_prompt="Be friendly.")
    live = make_release(root / "older-release", older, others, **Q8_0)
    return Inputs(
        make_release(root / "base-release", base, examples, **Q8_0),
        make_release(root / "release", base, examples, make_adapter(root / "adapter", base), **Q8_0),
        examples,
        make_champion(root / "none", None),
        make_champion(root / "champion", live),
    )
