import hashlib
import json
import math
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.chat import encode, load_tokenizer, prompt_ids
from components.evaluate import evaluate as evaluate_module
from components.evaluate.config import EvaluationConfig
from components.evaluate.evaluate import evaluate, mean_metrics
from components.evaluate.score import Example, Score, score_release
from components.step_config import InputError
from serving.engine import open_engine
from serving.release import read_release
from tests.components.artifacts import (
    SYSTEM_PROMPT,
    conversations,
    make_base,
    make_champion,
    make_examples,
    make_release,
)

CONFIG = EvaluationConfig(samples=2, sample_tokens=10)
# ids in order: three plain ones, one with its own system message, two of two turns
ASKED = [*conversations(1)[3:6], conversations(1)[6], *conversations(2)[:2]]
SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("question_digest", pa.string()),
        ("model", pa.string()),
        ("nll_sum", pa.float64()),
        ("tokens", pa.int32()),
        ("bytes", pa.int32()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
    ]
)


def evaluated(inputs, directory, *, config=CONFIG, champion=None, challenger=None, examples=None):
    """scores.json and the rows of scores.parquet; an argument that is None is taken from `inputs`."""
    directory.mkdir(exist_ok=True)
    summary = evaluate(
        config,
        inputs.base,
        champion or inputs.none,
        challenger or inputs.challenger,
        examples or inputs.examples,
        directory,
    )
    assert json.loads((directory / "scores.json").read_bytes()) == summary
    table = pq.read_table(directory / "scores.parquet")
    assert table.schema == SCHEMA
    return summary, table.to_pylist()


@pytest.fixture(scope="module")
def compared(inputs, tmp_path_factory):
    """base, challenger and champion; the directory, the summary, the rows."""
    directory = tmp_path_factory.mktemp("compared")
    return directory, *evaluated(inputs, directory, champion=inputs.champion)


def digest(artifact):
    return read_release(artifact / "release").digest


def test_every_example_has_a_row_for_every_model(compared, inputs):
    _, _, rows = compared
    assert len(rows) == 3 * 6
    for name in ("base", "challenger", "champion"):
        own = [row for row in rows if row["model"] == name]
        assert [row["example_id"] for row in own] == [f"test-{number:02}" for number in range(6)]
        # the fixture's digest of a question is its row's name
        assert [row["question_digest"] for row in own] == [row["example_id"] for row in own]
        assert [row["prompt"] for row in own] == [messages[-2]["content"] for messages in ASKED]
        assert [row["answer"] for row in own] == [messages[-1]["content"] for messages in ASKED]


def test_each_row_is_the_score_of_that_example_by_that_model(compared, inputs):
    _, _, rows = compared
    table = pq.read_table(inputs.examples / "test.parquet").sort_by("id").to_pylist()
    examples = [Example(row["id"], row["messages"]) for row in table]
    for name, artifact in (("base", inputs.base), ("challenger", inputs.challenger), ("champion", inputs.champion)):
        scores = score_release(artifact / "release", examples, SYSTEM_PROMPT, batch_tokens=2048, name=name)
        own = [row for row in rows if row["model"] == name]
        for row, score in zip(own, scores, strict=True):
            assert row["nll_sum"] == pytest.approx(score.nll_sum, rel=1e-6)
            assert (row["tokens"], row["bytes"]) == (score.tokens, score.bytes)


def test_the_models_differ(compared):
    """Otherwise the tests above could not tell one from another."""
    _, summary, _ = compared
    assert len({values["nll_per_token"] for values in summary["metrics"].values()}) == 3


def test_the_summary_says_what_was_compared_on_what(compared, inputs):
    _, summary, _ = compared
    expected = {
        "challenger": digest(inputs.challenger),
        "champion": digest(inputs.champion),
        "base": digest(inputs.base),
        "test_digest": "7" * 64,
        "data_digest": "d" * 64,
        "already_live": False,
    }
    assert {name: summary[name] for name in expected} == expected
    tokenizers = {
        name: hashlib.sha256((artifact / "release" / "tokenizer.json").read_bytes()).hexdigest()
        for name, artifact in (("base", inputs.base), ("challenger", inputs.challenger), ("champion", inputs.champion))
    }
    assert summary["tokenizers"] == tokenizers
    assert tokenizers["challenger"] == tokenizers["base"] != tokenizers["champion"]


def test_metrics_are_over_the_whole_test_set_not_means_of_means(compared):
    _, summary, rows = compared
    for name, values in summary["metrics"].items():
        own = [row for row in rows if row["model"] == name]
        nats = sum(row["nll_sum"] for row in own)
        per_token = nats / sum(row["tokens"] for row in own)
        assert values["nll_per_token"] == pytest.approx(per_token)
        assert values["nats_per_byte"] == pytest.approx(nats / sum(row["bytes"] for row in own))
        assert values["perplexity"] == pytest.approx(math.exp(per_token))
    assert mean_metrics([Score(4.0, 1, 10), Score(2.0, 5, 10)]) == {
        "nll_per_token": 1.0,
        "nats_per_byte": 0.3,
        "perplexity": math.e,
    }


def test_a_loss_beyond_what_exp_can_hold_still_has_a_finite_perplexity():
    metrics = mean_metrics([Score(7100.0, 10, 40)])
    assert metrics["nll_per_token"] == 710.0
    assert 1e300 < metrics["perplexity"] < math.inf


def test_samples_are_the_engines_greedy_answers(compared, inputs):
    _, summary, _ = compared
    assert [sample["prompt"] for sample in summary["samples"]] == [messages[0]["content"] for messages in ASKED[:2]]
    assert [sample["reference"] for sample in summary["samples"]] == [messages[1]["content"] for messages in ASKED[:2]]
    prompts = {"base": SYSTEM_PROMPT, "challenger": SYSTEM_PROMPT, "champion": "Be friendly."}
    for name, artifact in (("base", inputs.base), ("challenger", inputs.challenger), ("champion", inputs.champion)):
        tokenizer = load_tokenizer(artifact / "release")
        system = {"role": "system", "content": prompts[name]}
        engine = open_engine(artifact / "release")
        try:
            for sample in summary["samples"]:
                question = {"role": "user", "content": sample["prompt"]}
                (answer,) = engine.greedy([prompt_ids(tokenizer, [system, question])], 10)
                assert sample["answers"][name] == tokenizer.decode(answer, skip_special_tokens=True) != ""
        finally:
            engine.close()


def test_the_report_shows_the_figures_and_the_answers_side_by_side(compared):
    directory, summary, _ = compared
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "6 test examples" in page
    for name in ("base", "challenger", "champion"):
        assert f"{summary['metrics'][name]['perplexity']:,.4g}" in page and summary[name] in page
    assert page.count('<th scope="row">champion</th>') == 1 + len(summary["samples"])
    for messages in ASKED[:2]:
        assert messages[0]["content"] in page
    assert "<script" not in page and "http" not in page


def test_without_a_champion_base_and_challenger_are_scored(inputs, tmp_path):
    summary, rows = evaluated(inputs, tmp_path, config=EvaluationConfig(samples=0))
    assert summary["champion"] is None and summary["already_live"] is False
    assert [row["model"] for row in rows] == ["base"] * 6 + ["challenger"] * 6
    assert summary["samples"] == []


@pytest.fixture
def no_model(monkeypatch):
    """Loading any model fails the test."""

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(evaluate_module, "score_release", refuse)
    monkeypatch.setattr(evaluate_module, "open_engine", refuse)


def test_what_is_live_already_is_not_scored(inputs, tmp_path, no_model):
    live = make_champion(tmp_path / "live", inputs.challenger)
    summary, rows = evaluated(inputs, tmp_path / "scores", champion=live)
    assert rows == [] and summary["samples"] == []
    assert summary["already_live"] is True
    assert summary["champion"] == summary["challenger"] == digest(inputs.challenger)
    page = (tmp_path / "scores" / "report.html").read_text()
    assert f"Nothing was scored: {summary['challenger']} is already live." in page


def test_fewer_examples_are_the_first_by_id(inputs, tmp_path):
    summary, rows = evaluated(inputs, tmp_path, config=EvaluationConfig(max_examples=2, samples=5, sample_tokens=2))
    assert [row["example_id"] for row in rows] == ["test-00", "test-01"] * 2
    assert len(summary["samples"]) == 2


def test_an_empty_test_split_is_refused(inputs, tmp_path, no_model):
    examples = shutil.copytree(inputs.examples, tmp_path / "examples")
    pq.write_table(pq.read_table(examples / "test.parquet").slice(0, 0), examples / "test.parquet")
    with pytest.raises(InputError, match=r"the test split is empty; raise data\.test_share or give more examples"):
        evaluated(inputs, tmp_path / "scores", examples=examples)


def test_a_sample_is_cut_where_the_context_ends(tmp_path):
    """GPT-2 has no position for a token beyond its context."""
    tokenizer = load_tokenizer(make_base(tmp_path / "wide", "gpt2") / "model")
    system = {"role": "system", "content": SYSTEM_PROMPT}
    asked = [conversations(1)[0], conversations(1)[30]]
    prompts = [prompt_ids(tokenizer, [system, messages[0]]) for messages in asked]
    whole = max(len(encode(tokenizer, [system, *messages]).input_ids) for messages in asked)
    base = make_base(tmp_path / "base", "gpt2", n_positions=whole)
    examples = make_examples(tmp_path / "examples", base, test=asked, validation=[], max_tokens=whole)
    released = make_release(tmp_path / "release", base, examples, engine="transformers", precision="f32")
    summary = evaluate(
        EvaluationConfig(samples=2, sample_tokens=10_000),
        released,
        make_champion(tmp_path / "none", None),
        released,
        examples,
        tmp_path,
    )
    engine = open_engine(released / "release")
    try:
        for sample, prompt in zip(summary["samples"], prompts, strict=True):
            (answer,) = engine.greedy([prompt], whole - len(prompt))
            assert sample["answers"]["challenger"] == tokenizer.decode(answer, skip_special_tokens=True)
    finally:
        engine.close()
