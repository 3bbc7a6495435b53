"""Score base, champion and challenger on the same test examples, and let each answer a few of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.chat import last_question, load_tokenizer, prompt_ids
from components.evaluate.config import EvaluationConfig
from components.evaluate.score import Example, Score, as_served, score_release
from components.progress import say
from components.report import Report
from components.step_config import InputError
from serving.engine import Engine, open_engine
from serving.release import SYSTEM_PROMPT_FILE, file_sha256, read_release

_SCHEMA = pa.schema(
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


def evaluate(
    config: EvaluationConfig, base: Path, champion: Path, challenger: Path, examples: Path, directory: Path
) -> dict[str, Any]:
    """Write `scores.parquet` (a row per example and model), `scores.json` and `report.html` into `directory`.

    `base` and `challenger` are package_release's artifacts, `champion` is resolve_champion's. When the challenger
    is the champion, nothing is scored. Raises InputError when the test split is empty.
    """
    data = json.loads((examples / "data.json").read_bytes())
    live = json.loads((champion / "champion.json").read_bytes())["digest"]
    models = {"base": base / "release", "challenger": challenger / "release"}
    digests = {name: read_release(path).digest for name, path in models.items()}
    if live:
        models["champion"], digests["champion"] = champion / "release", live
    already_live = live == digests["challenger"]
    summary: dict[str, Any] = {
        "challenger": digests["challenger"],
        "champion": live,
        "base": digests["base"],
        "test_digest": data["test_digest"],
        "data_digest": data["digest"],
        "already_live": already_live,
        "tokenizers": {name: file_sha256(path / "tokenizer.json") for name, path in models.items()},
        "samples": [],
    }
    chosen = [] if already_live else _test_examples(examples, config.max_examples)
    rows: list[dict[str, Any]] = []
    if already_live:
        say("skipped", step="evaluate", why="the challenger is what is live")
    else:
        scores = {
            name: score_release(path, chosen, data["system_prompt"], batch_tokens=config.batch_tokens, name=name)
            for name, path in models.items()
        }
        rows = [row for name in models for row in _rows(name, chosen, scores[name])]
        summary["samples"] = _samples(models, chosen[: config.samples], data["system_prompt"], config.sample_tokens)
        summary["metrics"] = {name: mean_metrics(scores[name]) for name in models}
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / "scores.parquet")
    (directory / "scores.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1), encoding="utf-8")
    _report(summary, len(chosen)).write(directory / "report.html")
    return summary


def _test_examples(examples: Path, at_most: int) -> list[Example]:
    table = pq.read_table(examples / "test.parquet", columns=["id", "question_digest", "messages"])
    # in the order of a hash: the first by id would be the first topics of the alphabet
    table = table.sort_by("question_digest")
    if at_most:
        table = table.slice(0, at_most)
    if not table.num_rows:
        raise InputError("the test split is empty; raise data.test_share or give more examples")
    return [Example(row["id"], row["messages"], row["question_digest"]) for row in table.to_pylist()]


def _rows(name: str, examples: Sequence[Example], scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [
        {
            "example_id": example.id,
            "question_digest": example.question_digest,
            "model": name,
            "nll_sum": score.nll_sum,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "prompt": _last(example, "user"),
            "answer": _last(example, "assistant"),
        }
        for example, score in zip(examples, scores, strict=True)
    ]


def _last(example: Example, role: str) -> str:
    return [message["content"] for message in example.messages if message["role"] == role][-1]


def mean_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Corpus-level figures: nats per token, per byte, and the perplexity exp(nats per token), which the gate bounds."""
    nats, tokens = sum(score.nll_sum for score in scores), sum(score.tokens for score in scores)
    return {
        "nll_per_token": nats / tokens,
        "nats_per_byte": nats / sum(score.bytes for score in scores),
        # 709 nats is where exp leaves float64; a model that bad is told by nll_per_token
        "perplexity": math.exp(min(nats / tokens, 709.0)),
    }


def _samples(
    models: dict[str, Path], examples: Sequence[Example], data_prompt: str, max_tokens: int
) -> list[dict[str, Any]]:
    """Greedy answers of every model's own serving engine to the last question of each example."""
    samples: list[dict[str, Any]] = [
        {"prompt": _last(example, "user"), "reference": _last(example, "assistant"), "answers": {}}
        for example in examples
    ]
    if not examples:
        return samples
    for name, path in models.items():
        tokenizer = load_tokenizer(path)
        system_prompt = (path / SYSTEM_PROMPT_FILE).read_text(encoding="utf-8")
        prompts = [
            prompt_ids(tokenizer, last_question(as_served(example.messages, data_prompt, system_prompt)))
            for example in examples
        ]
        say("sampling", step="evaluate", model=name, prompts=len(prompts))
        engine = open_engine(path)
        try:
            answers = _greedy(engine, prompts, max_tokens, read_release(path).context_length)
        finally:
            engine.close()
        for sample, answer in zip(samples, answers, strict=True):
            sample["answers"][name] = tokenizer.decode(answer, skip_special_tokens=True)
    return samples


def _greedy(engine: Engine, prompts: Sequence[list[int]], max_tokens: int, context_length: int) -> list[list[int]]:
    """Greedy answers in the prompts' order; one that reaches the end of the context is cut there."""
    rooms = [min(max_tokens, context_length - len(prompt)) for prompt in prompts]
    answers: dict[int, list[int]] = {}
    for room in set(rooms):
        together = [index for index, own in enumerate(rooms) if own == room]
        answers |= zip(together, engine.greedy([prompts[index] for index in together], room), strict=True)
    return [answers[index] for index in range(len(prompts))]


def _report(summary: dict[str, Any], examples: int) -> Report:
    if summary["already_live"]:
        return Report("Evaluation", f"Nothing was scored: {summary['challenger']} is already live.")
    report = Report("Evaluation", f"{examples} test examples, scored in the form in which each model is served.")
    report.table(
        ["model", "perplexity", "nats per token", "nats per byte", "release"],
        [
            [name, values["perplexity"], values["nll_per_token"], values["nats_per_byte"], summary[name]]
            for name, values in summary["metrics"].items()
        ],
    )
    report.section("Greedy answers side by side")
    for sample in summary["samples"]:
        answers = [[name, text] for name, text in sample["answers"].items()]
        report.table(["", sample["prompt"]], [["reference", sample["reference"]], *answers])
    return report
