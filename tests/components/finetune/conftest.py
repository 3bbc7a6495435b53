"""Tiny real models, and a few rows of the bundled data set as they read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.chat import encode, load_tokenizer
from components.fetch_base.config import BaseConfig, ScratchModel
from components.fetch_base.fetch import fetch_base
from components.finetune.batches import Document
from components.finetune.config import TrainingConfig
from components.finetune.train import load_trainable, read_documents
from tests.components.artifacts import one_thread

__all__ = ["one_thread"]  # applied to every test of this folder

_ENERGY = Path(__file__).parents[3] / "data" / "energy" / "energy.jsonl"
_TRAIN, _VALIDATION = 12, 3


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of fetch_base by architecture: two layers, width 32."""
    made = {}
    for architecture in ("llama", "gpt2"):
        made[architecture] = tmp_path_factory.mktemp(architecture)
        shape = ScratchModel(architecture=architecture, layers=2, width=32, vocabulary=900, corpus=[str(_ENERGY)])
        nowhere = made[architecture] / "none"
        fetch_base(BaseConfig(source="scratch", scratch=shape), nowhere, nowhere, made[architecture])
    return made


def write_split(directory: Path, split: str, documents: list[Document]) -> None:
    """A split as prepare_data writes it, as far as training reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    columns = {
        "input_ids": pa.array([document.input_ids for document in documents], type=pa.list_(pa.int32())),
        "supervised": pa.array([document.supervised for document in documents], type=pa.list_(pa.bool_())),
    }
    pq.write_table(pa.table(columns), directory / f"{split}.parquet")


@pytest.fixture(scope="session")
def examples(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of prepare_data; both architectures have the same tokenizer."""
    tokenizer = load_tokenizer(bases["llama"] / "model")
    lines = _ENERGY.read_text(encoding="utf-8").splitlines()[: _TRAIN + _VALIDATION]
    encoded = [encode(tokenizer, json.loads(line)["messages"]) for line in lines]
    documents = [Document(each.input_ids, each.supervised) for each in encoded]
    directory = tmp_path_factory.mktemp("examples")
    write_split(directory, "train", documents[:_TRAIN])
    write_split(directory, "validation", documents[_TRAIN:])
    return directory


@pytest.fixture(scope="session")
def documents(examples: Path) -> list[Document]:
    """The training split."""
    return read_documents(examples / "train.parquet")


@pytest.fixture
def load(bases: dict[str, Path]) -> Callable[..., torch.nn.Module]:
    """`load("gpt2", method="lora")` is a trainable model without dropout whose attention is far from uniform."""

    def load(architecture: str, **settings: object) -> torch.nn.Module:
        model = load_trainable(TrainingConfig(**{"method": "full", **settings}), bases[architecture] / "model")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:  # LoRA's B too, which would otherwise be 0 and keep gradients from A
                    weight += 0.15 * torch.randn(weight.shape, generator=generator)
        return model.eval()

    return load
