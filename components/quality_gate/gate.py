"""The decision: may the challenger replace what is live?

    pass            no worse than the champion, and no worse than the base, by more than the margin
    fail            worse than one of them by more than the margin, or an absolute bound is broken
    inconclusive    the examples do not tell

"No worse" means that the one-sided upper confidence bound of the mean paired difference lies below the
margin; "worse" that the lower bound lies above it. Examples that begin with the same question are drawn together
and counted once: the split keeps them together because they are alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]

from components.quality_gate.config import GateConfig
from components.quality_gate.statistics import (
    Array,
    Interval,
    mean_interval,
    minimum_detectable_effect,
    paired_differences,
)
from components.step_config import InputError

Verdict = Literal["pass", "fail", "inconclusive"]
Unit = Literal["nats/token", "nats/byte"]
MODELS = ("base", "champion", "challenger")
_COLUMNS = ("example_id", "question_digest", "model", "nll_sum", "tokens", "bytes")


class GateError(InputError):
    """Scores that cannot be compared."""


@dataclass(frozen=True)
class ModelScores:
    """What one model scored on the test set; the arrays have shape (N,), in the order of `ids`."""

    model: str
    digest: str
    tokenizer: str
    """Digest of the tokenizer that counted `tokens`."""

    ids: tuple[str, ...]
    """Sorted."""

    questions: tuple[str, ...]
    """Digest of each example's first question."""

    nll_sum: Array
    """Nats over the whole answer."""

    tokens: Array
    """Of the answer, with what the chat template ends a turn with."""

    bytes: Array
    """Of the answer's own text, the same for every model."""

    metrics: dict[str, float]
    """Its figures over all answers, as the evaluate step reports them."""


@dataclass(frozen=True)
class Scores:
    """The evaluation of one run."""

    challenger: str
    champion: str | None
    base: str
    test_digest: str
    already_live: bool
    models: dict[str, ModelScores]


@dataclass(frozen=True)
class Comparison:
    """The challenger's loss minus a reference's; below zero is better."""

    unit: Unit
    difference: float
    lower: float
    upper: float
    n: int
    """Questions, which are what the bounds are made of: examples that share their first one count once."""

    examples: int
    standard_deviation: float
    """Of what one question adds to the mean difference."""

    minimum_detectable_effect: float | None
    """In the unit; None for a single question."""

    verdict: Verdict
    improved: bool = False
    """Better, not only no worse; see `improvements`. No verdict depends on it."""


@dataclass(frozen=True)
class BoundCheck:
    """One absolute limit on the challenger."""

    metric: str
    value: float
    limit: str
    ok: bool


@dataclass(frozen=True)
class Decision:
    """The content of verdict.json."""

    verdict: Verdict
    reason: str
    challenger: str
    champion: str | None
    base: str
    reference: Literal["champion", "base"]
    unit: Unit
    margin: float
    confidence: float
    test_digest: str
    already_live: bool
    comparisons: dict[str, Comparison] = field(default_factory=dict[str, Comparison])
    bounds: list[BoundCheck] = field(default_factory=list[BoundCheck])
    metrics: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)


# ---------------------------------------------------------------------------------------------- reading


def read_scores(directory: Path) -> Scores:
    """The scores artifact of the evaluate step. Raises GateError when it is not one."""
    try:
        facts = cast("dict[str, Any]", json.loads((directory / "scores.json").read_bytes()))
        table = parquet.read_table(directory / "scores.parquet", columns=list(_COLUMNS))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        columns = cast("dict[str, list[Any]]", table.to_pydict())  # pyright: ignore[reportUnknownMemberType]
        scores = Scores(
            challenger=facts["challenger"],
            champion=facts["champion"],
            base=facts["base"],
            test_digest=facts["test_digest"],
            already_live=facts["already_live"],
            models={},
        )
        tokenizers = cast("dict[str, str]", facts["tokenizers"])
        # none where nothing was scored, since it is live already
        metrics = cast("dict[str, dict[str, float]]", facts.get("metrics", {}))
    except (OSError, KeyError, ValueError) as error:
        raise GateError(f"{directory} holds no readable scores ({error}); run the evaluate step again") from error
    digests = {"base": scores.base, "champion": scores.champion, "challenger": scores.challenger}
    for model in sorted(set(columns["model"])):
        if model not in MODELS:
            raise GateError(f"{directory}/scores.parquet has scores of {model!r}; known are {', '.join(MODELS)}")
        if model not in tokenizers or model not in metrics:
            raise GateError(f"{directory}/scores.json does not name the tokenizer and the metrics of {model}")
        scores.models[model] = _scores_of(model, digests[model] or "", tokenizers[model], metrics[model], columns)
    return scores


def _scores_of(
    model: str, digest: str, tokenizer: str, metrics: dict[str, float], columns: dict[str, list[Any]]
) -> ModelScores:
    rows = [row for row, name in enumerate(columns["model"]) if name == model]
    rows.sort(key=lambda row: columns["example_id"][row])
    ids, questions = (tuple(columns[name][row] for row in rows) for name in ("example_id", "question_digest"))
    twice = next((first for first, second in pairwise(ids) if first == second), None)
    if twice is not None:
        raise GateError(f"{model} has two scores for example {twice}; each example is scored once")

    def numbers(column: str) -> Array:
        return np.array([columns[column][row] for row in rows], dtype=np.float64)

    return ModelScores(
        model, digest, tokenizer, ids, questions, numbers("nll_sum"), numbers("tokens"), numbers("bytes"), metrics
    )


# ------------------------------------------------------------------------------------------- comparing


def differences(challenger: ModelScores, reference: ModelScores, unit: Unit) -> Array:
    """Paired per-example differences, shape (N,), in the order of the examples' ids.

    Raises GateError when the two were not scored on the same examples, or do not count the same units.
    """
    names = f"{reference.model} and {challenger.model}"
    if challenger.ids != reference.ids:
        only = sorted(set(challenger.ids) ^ set(reference.ids))
        raise GateError(
            f"{reference.model} has {len(reference.ids)} scores and {challenger.model} {len(challenger.ids)}, and "
            f"{len(only)} examples are on one side only ({', '.join(only[:3])}); score both on the same examples"
        )
    if not np.array_equal(challenger.bytes, reference.bytes):
        example = challenger.ids[int(np.argmax(challenger.bytes != reference.bytes))]
        raise GateError(f"{names} were scored on different answers to example {example}; score both on the same data")
    if unit == "nats/token" and not np.array_equal(challenger.tokens, reference.tokens):
        raise GateError(f"{names} count different tokens in the same answers; compare them per byte")
    units = challenger.tokens if unit == "nats/token" else challenger.bytes
    try:
        return paired_differences(challenger.nll_sum, reference.nll_sum, units)
    except ValueError as error:
        raise GateError(f"{names} cannot be compared: {error}") from error


def compare(challenger: ModelScores, reference: ModelScores, unit: Unit, config: GateConfig) -> Comparison:
    """How much worse the challenger is than a reference, and what follows from that alone."""
    interval = _interval(challenger, reference, unit, config, config.confidence)
    verdict: Verdict = "inconclusive"
    if interval.n >= config.min_examples:
        verdict = _judge(interval.lower, interval.upper, margin_of(unit, config))
    effect = None
    if interval.n > 1:
        effect = minimum_detectable_effect(interval.standard_deviation, interval.n, alpha=1 - config.confidence)
    return Comparison(
        unit=unit,
        difference=interval.difference,
        lower=interval.lower,
        upper=interval.upper,
        n=interval.n,
        examples=len(challenger.ids),
        standard_deviation=interval.standard_deviation,
        minimum_detectable_effect=effect,
        verdict=verdict,
    )


def improvements(
    challenger: ModelScores, references: Iterable[ModelScores], unit: Unit, config: GateConfig
) -> set[str]:
    """Which of the references the challenger may be called better than: no claim is false, at `config.confidence`.

    Each further claim is one more chance to be wrong, so the first to hold of k must do so at 1 - alpha / k, the next
    at 1 - alpha / (k - 1), and so on (Holm 1979). A verdict needs no such correction: there all must hold.
    """
    better: set[str] = set()
    left = {reference.model: reference for reference in references}
    while left:
        confidence = 1 - (1 - config.confidence) / len(left)
        intervals = {name: _interval(challenger, left[name], unit, config, confidence) for name in left}
        found = {name for name, own in intervals.items() if own.n >= config.min_examples and own.upper < 0}
        if not found:
            break
        better |= found
        left = {name: left[name] for name in left if name not in found}
    return better


def _interval(
    challenger: ModelScores, reference: ModelScores, unit: Unit, config: GateConfig, confidence: float
) -> Interval:
    return mean_interval(
        differences(challenger, reference, unit),
        challenger.questions,
        confidence=confidence,
        resamples=config.resamples,
        seed=config.seed,
    )


def margin_of(unit: Unit, config: GateConfig) -> float:
    """How much worse is still no worse, in the unit."""
    return config.margin if unit == "nats/token" else config.margin_per_byte


def _judge(lower: float, upper: float, margin: float) -> Verdict:
    if upper < margin:
        return "pass"
    return "fail" if lower > margin else "inconclusive"


def check_bounds(metrics: dict[str, float], config: GateConfig) -> list[BoundCheck]:
    """Every absolute limit of the run file against the challenger's metrics."""
    checks: list[BoundCheck] = []
    for bound in config.bounds:
        value = metrics[bound.metric]
        if bound.at_most is not None:
            checks.append(BoundCheck(bound.metric, value, f"at most {bound.at_most:g}", value <= bound.at_most))
        if bound.at_least is not None:
            checks.append(BoundCheck(bound.metric, value, f"at least {bound.at_least:g}", value >= bound.at_least))
    return checks


# -------------------------------------------------------------------------------------------- deciding


def decide(scores: Scores, config: GateConfig) -> Decision:
    """The verdict on the challenger. Raises GateError when the scores do not allow a comparison."""
    nothing_to_decide = Decision(
        verdict="pass",
        reason="already live: nothing changed",
        challenger=scores.challenger,
        champion=scores.champion,
        base=scores.base,
        reference="champion" if scores.champion else "base",
        unit="nats/token",
        margin=config.margin,
        confidence=config.confidence,
        test_digest=scores.test_digest,
        already_live=scores.already_live,
    )
    if scores.already_live:
        if scores.challenger != scores.champion:
            raise GateError(
                f"the scores say that {scores.challenger} is live already, and name {scores.champion} as champion; "
                "run the evaluate step again"
            )
        return nothing_to_decide
    _require_models(scores)
    challenger = scores.models["challenger"]
    # One margin needs one unit: as soon as one model counts otherwise, everything is counted in bytes. The same
    # tokenizer counts otherwise with another chat template, so both are asked.
    same = all(
        other.tokenizer == challenger.tokenizer and np.array_equal(other.tokens, challenger.tokens)
        for other in scores.models.values()
    )
    unit: Unit = "nats/token" if same else "nats/byte"
    references = {name: scores.models[name] for name in ("champion", "base") if name in scores.models}
    better = improvements(challenger, references.values(), unit, config)
    comparisons = {
        name: replace(compare(challenger, reference, unit, config), improved=name in better)
        for name, reference in references.items()
    }
    metrics = {name: model.metrics for name, model in scores.models.items()}
    bounds = check_bounds(metrics["challenger"], config)
    verdict, reason = _conclude(comparisons, bounds, config)
    return replace(
        nothing_to_decide,
        verdict=verdict,
        reason=reason,
        unit=unit,
        margin=margin_of(unit, config),
        comparisons=comparisons,
        bounds=bounds,
        metrics=metrics,
    )


def _require_models(scores: Scores) -> None:
    needed = ["challenger", "base", *(["champion"] if scores.champion else [])]
    missing = [name for name in needed if name not in scores.models]
    if missing:
        raise GateError(f"there are no scores of {' and '.join(missing)}; run the evaluate step again")
    if not scores.champion and "champion" in scores.models:
        raise GateError("there are scores of a champion, but no release is named as champion; evaluate again")


def _conclude(comparisons: dict[str, Comparison], bounds: list[BoundCheck], config: GateConfig) -> tuple[Verdict, str]:
    broken = [check for check in bounds if not check.ok]
    if broken:
        limits = "; ".join(f"{check.metric} is {check.value:.4g}, allowed is {check.limit}" for check in broken)
        return "fail", f"a bound is broken: {limits}"
    verdicts = {name: comparison.verdict for name, comparison in comparisons.items()}
    verdict: Verdict = "pass"
    if "fail" in verdicts.values():
        verdict = "fail"
    elif "inconclusive" in verdicts.values():
        verdict = "inconclusive"
    # A pass is said of everything it was compared with; a stop of what caused it.
    told = [name for name, own in verdicts.items() if own == verdict]
    return verdict, "; ".join(_sentence(name, comparisons[name], config) for name in told)


def _sentence(name: str, comparison: Comparison, config: GateConfig) -> str:
    """What one comparison says, with its numbers."""
    counted = _counted(comparison)
    if comparison.n < config.min_examples:
        return f"{counted} are too few to compare with the {name} (min_examples is {config.min_examples})"
    if comparison.verdict == "pass":
        finding = f"better than the {name}" if comparison.improved else f"no worse than the {name}"
    elif comparison.verdict == "fail":
        finding = f"worse than the {name}"
    else:
        finding = f"the {counted} do not tell whether it is worse than the {name}"
    margin = margin_of(comparison.unit, config)
    alike = "" if comparison.n == comparison.examples else f" questions ({comparison.examples} examples)"
    numbers = (
        f"{comparison.difference:+.4f} {comparison.unit}, {config.confidence:.0%} bounds "
        f"{comparison.lower:+.4f} and {comparison.upper:+.4f}, margin {margin:g}, n={comparison.n}{alike}"
    )
    if comparison.verdict == "inconclusive" and comparison.minimum_detectable_effect is not None:
        numbers += f"; the smallest difference that they would show is {comparison.minimum_detectable_effect:.4f}"
    return f"{finding} ({numbers})"


def _counted(comparison: Comparison) -> str:
    if comparison.n == comparison.examples:
        return f"{comparison.n} examples"
    return f"{comparison.examples} examples of {comparison.n} questions"
