"""What a release directory is: its schema, and how it is written, read and verified.

A release is immutable and complete. `release.json` lists every payload file with its sha256; the
release's digest is the sha256 of the canonical bytes of `release.json`, so it covers every byte served.
What is learned about a release later (scores, verdict, run) stands beside it and never enters the digest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RELEASE_FILE = "release.json"
GOLDEN_FILE = "golden.json"
SYSTEM_PROMPT_FILE = "system_prompt.txt"
GGUF_FILE = "model.gguf"


class ReleaseError(ValueError):
    """A directory that is not the release that it says it is."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ServingForm(_Schema):
    """How the weights of a release are served: exactly one engine, precision and form."""

    engine: Literal["openvino", "transformers", "vllm"] = "openvino"
    """"openvino" reads llama- and qwen-like models from GGUF on a CPU; "vllm" serves safetensors on GPUs,
    in a container beside the server; "transformers" reads everything else, one request at a time."""

    precision: Literal["q8_0", "f16", "bf16", "f32"] = "q8_0"
    """Of the stored weights. OpenVINO computes activations and the KV cache in f32 (its exact mode)."""

    @model_validator(mode="after")
    def _engine_reads_precision(self) -> ServingForm:
        readable = ("q8_0", "f16") if self.engine == "openvino" else ("f16", "bf16", "f32")
        if self.precision not in readable:
            raise ValueError(
                f"engine {self.engine} cannot serve precision {self.precision}; choose one of {', '.join(readable)}"
            )
        return self

    @property
    def form(self) -> Literal["gguf", "safetensors"]:
        """File format of the weights, which the engine decides."""
        return "gguf" if self.engine == "openvino" else "safetensors"


class Origin(_Schema):
    """Where a base model comes from."""

    source: str
    revision: str = ""
    licence: str = ""
    digest: str
    """sha256 over the base's files."""


class Release(_Schema):
    """The content of release.json."""

    version: Literal[1] = 1
    serving: ServingForm
    base: Origin
    data_digest: str
    """Digest of the prepared data that it was trained on; of the data whose prompt it serves, for a bare base."""

    context_length: int = Field(ge=1)
    """Longest sequence in tokens, prompt and answer together."""

    end_token_ids: list[int]
    """Generation stops at any of these."""

    files: dict[str, str]
    """Relative path -> sha256 of each payload file."""

    def canonical(self) -> bytes:
        """The bytes that the digest is made of: sorted keys, no spaces, UTF-8."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    @property
    def digest(self) -> str:
        """ "sha256:" and 64 hexadecimal digits."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()


class GoldenAnswer(_Schema):
    """One greedy answer that every server of the release must give again, token by token."""

    messages: list[dict[str, str]]
    """The conversation up to the answer, system message included."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    """The greedy answer; its end token, when it was reached, included."""

    gaps: list[float]
    """Per position of token_ids: log-probability (nats) of the first choice minus that of the second."""


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_files(directory: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file of a release directory except release.json itself."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / RELEASE_FILE)
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in paths}


def read_release(directory: Path) -> Release:
    """The manifest of a release directory; its payload is not hashed here (see verify_release).

    Raises ReleaseError when there is no readable release.json.
    """
    try:
        return Release.model_validate_json((directory / RELEASE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReleaseError(f"{directory} is not a release: it has no {RELEASE_FILE}") from error
    except ValueError as error:
        raise ReleaseError(f"{directory / RELEASE_FILE} is not a release manifest: {error}") from error


def verify_release(directory: Path) -> Release:
    """Read a release and compare every payload file with its sha256.

    Raises ReleaseError that names the first file that is missing, extra or different.
    """
    release = read_release(directory)
    found = payload_files(directory)
    for name in sorted(release.files.keys() | found.keys()):
        if name not in found:
            raise ReleaseError(f"{directory}: {name} is missing")
        if name not in release.files:
            raise ReleaseError(f"{directory}: {name} is not part of the release")
        if found[name] != release.files[name]:
            raise ReleaseError(f"{directory}: {name} has sha256 {found[name]}, the release says {release.files[name]}")
    return release


def read_golden(directory: Path) -> list[GoldenAnswer]:
    """The golden answers of a release directory."""
    return [GoldenAnswer.model_validate(answer) for answer in json.loads((directory / GOLDEN_FILE).read_bytes())]
