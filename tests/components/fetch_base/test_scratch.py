import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from components.chat import encode, end_token_ids, load_tokenizer
from components.fetch_base.fetch import fetch_base
from components.fetch_base.scratch import make_scratch
from components.step_config import InputError
from components.store import tree_files
from tests.components.artifacts import scratch


def made(directory, **changes):
    directory.mkdir()
    make_scratch(scratch(**changes).scratch, directory)
    return directory


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_same_settings_give_the_same_bytes(tmp_path, architecture):
    first = made(tmp_path / "first", architecture=architecture)
    torch.manual_seed(99)  # whatever happened before in the process
    second = made(tmp_path / "second", architecture=architecture)
    assert tree_files(first) == tree_files(second)


def test_the_seed_draws_other_weights_for_the_same_tokenizer(tmp_path):
    zero, one = (tree_files(made(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert {name for name in zero if zero[name] != one[name]} == {"model.safetensors"}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_model_has_the_configured_shape(tmp_path, architecture):
    directory = made(tmp_path / "model", architecture=architecture, layers=2, width=48, heads=3, context_length=96)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.model_type == architecture
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.num_attention_heads) == (2, 48, 3)
    assert model.config.max_position_embeddings == 96
    assert model.get_input_embeddings().weight.shape == (600, 48)  # (vocabulary, width)
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")  # tied
    logits_BTV = model(torch.arange(96)[None]).logits
    assert logits_BTV.shape == (1, 96, 600) and logits_BTV.isfinite().all()


def test_every_text_has_tokens_and_comes_back(tmp_path):
    tokenizer = load_tokenizer(made(tmp_path / "model"))
    text = "  Grüße aus Köln,\n\n電気 😀\tand 3.6 MJ  "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_its_answers_end_with_one_token_that_also_ends_generation(tmp_path):
    directory = made(tmp_path / "model")
    tokenizer = load_tokenizer(directory)
    (end,) = end_token_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == "<|im_end|>"
    assert AutoModelForCausalLM.from_pretrained(directory).generation_config.eos_token_id == end
    encoded = encode(tokenizer, [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
    said = [token for token, supervised in zip(encoded.input_ids, encoded.supervised, strict=True) if supervised]
    assert tokenizer.decode(said) == "So.<|im_end|>"


def test_a_corpus_that_is_not_there_is_named(tmp_path):
    config = scratch(corpus=["no/such/corpus.txt"])
    with pytest.raises(InputError, match=r"base\.scratch\.corpus: no/such/corpus\.txt is no file"):
        fetch_base(config, tmp_path, tmp_path, tmp_path)
