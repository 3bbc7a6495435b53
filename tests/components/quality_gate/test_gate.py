"""The policy: which verdict follows from which scores, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as parquet
import pytest

from components.quality_gate.config import GateConfig
from components.quality_gate.gate import GateError, compare, decide, differences, improvements, read_scores
from components.step_config import InputError

CONFIG = GateConfig(resamples=999)


@pytest.fixture
def decided(write_scores):
    def decided(directory, losses, config=CONFIG, **facts):
        return decide(read_scores(write_scores(directory, losses, **facts)), config)

    return decided


def test_a_clear_gain_over_the_base_passes_and_is_called_better(tmp_path, decided, noisy):
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(-0.3, seed=1)})
    assert decision.verdict == "pass"
    assert decision.reference == "base"
    assert decision.comparisons["base"].improved
    assert decision.comparisons["base"].difference == pytest.approx(-0.3, abs=0.03)
    assert "better than the base (-0.3" in decision.reason and "n=200" in decision.reason


def test_an_equal_challenger_passes_within_the_margin_and_is_not_called_better(tmp_path, decided, noisy):
    losses = {"base": noisy(0.4), "champion": noisy(0, seed=1), "challenger": noisy(0.0, seed=2)}
    decision = decided(tmp_path, losses, GateConfig(resamples=999, margin=0.05))
    assert decision.verdict == "pass" and decision.reference == "champion"
    assert not decision.comparisons["champion"].improved
    assert "no worse than the champion" in decision.reason and "better than the base" in decision.reason


def test_of_two_claims_to_be_better_one_is_false_no_more_often_than_of_one(tmp_path, write_scores, noisy):
    """Three equal models. Each reference alone would be called worse in 5 % of the runs, one of the two in 10 %."""
    losses = {name: noisy(0, n=80) for name in ("base", "champion", "challenger")}
    scores = read_scores(write_scores(tmp_path, losses)).models
    claims = []
    for seed in range(500):
        noise = np.random.default_rng(seed).normal(0, 3, (2, 80))
        references = [replace(scores[name], nll_sum=noise[row]) for row, name in enumerate(("champion", "base"))]
        challenger = replace(scores["challenger"], nll_sum=np.zeros(80))
        claims.append(improvements(challenger, references, "nats/token", CONFIG))
    assert 11 <= sum(1 for claim in claims if claim) <= 39  # 25 plus or minus three standard deviations


@pytest.mark.parametrize(
    ("champion", "base", "better"),
    [
        (1.8, 3.0, {"champion", "base"}),  # the second claim is held to 95 % once the first has held at 97.5 %
        (1.8, 1.8, set()),
        (1.8, 0.0, set()),
        (3.0, 0.0, {"champion"}),
    ],
)
def test_the_strongest_claim_comes_first(tmp_path, decided, champion, base, better):
    """`champion`, `base`: by how many standard errors the challenger is better; 1.64 show at 95 %, 1.96 at 97.5 %."""
    noise = np.random.default_rng(0).normal(0, 1, 400)
    noise = (noise - noise.mean()) / noise.std()
    losses = {"champion": 10 + noise + champion / 20, "base": 10 + noise + base / 20, "challenger": np.full(400, 10.0)}
    decision = decided(tmp_path, losses, GateConfig(resamples=9999, margin=5.0))
    assert decision.verdict == "pass"
    assert {name for name, comparison in decision.comparisons.items() if comparison.improved} == better
    for name in ("champion", "base"):
        assert f"{'better' if name in better else 'no worse'} than the {name}" in decision.reason


def test_a_worse_challenger_fails_against_the_champion_although_it_beats_the_base(tmp_path, decided, noisy):
    losses = {"base": noisy(0.9), "champion": noisy(0, seed=1), "challenger": noisy(0.3, seed=2)}
    decision = decided(tmp_path, losses)
    assert decision.verdict == "fail"
    assert decision.comparisons["base"].verdict == "pass"
    assert decision.reason.startswith("worse than the champion (+0.") and "base" not in decision.reason


def test_better_than_a_champion_that_had_drifted_below_the_base_is_not_enough(tmp_path, decided, noisy):
    losses = {"base": noisy(0), "champion": noisy(0.6, seed=1), "challenger": noisy(0.3, seed=2)}
    decision = decided(tmp_path, losses)
    assert decision.verdict == "fail" and decision.reason.startswith("worse than the base")


def test_a_wide_interval_is_inconclusive_and_names_what_could_have_been_seen(tmp_path, decided, noisy):
    losses = {"base": noisy(0, n=40, spread=0.5), "challenger": noisy(0, n=40, spread=0.5, seed=1)}
    decision = decided(tmp_path, losses)
    effect = decision.comparisons["base"].minimum_detectable_effect
    assert decision.verdict == "inconclusive"
    assert effect == pytest.approx(2.4865 * decision.comparisons["base"].standard_deviation / 40**0.5, rel=1e-3)
    assert f"the smallest difference that they would show is {effect:.4f}" in decision.reason


def test_too_few_examples_are_inconclusive_however_clear_they_look(tmp_path, decided, noisy):
    decision = decided(tmp_path, {"base": noisy(0, n=10), "challenger": noisy(-2, n=10, seed=1)})
    assert decision.verdict == "inconclusive"
    assert "10 examples are too few" in decision.reason and "min_examples is 20" in decision.reason
    assert not decision.comparisons["base"].improved


def test_a_single_example_is_inconclusive(tmp_path, decided, noisy):
    decision = decided(tmp_path, {"base": noisy(0, n=1), "challenger": noisy(-2, n=1, seed=1)})
    assert decision.verdict == "inconclusive"
    assert decision.comparisons["base"].minimum_detectable_effect is None


def test_identical_scores_pass_with_an_interval_of_zero_width(tmp_path, decided, noisy):
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(0)})
    assert decision.verdict == "pass"
    assert decision.comparisons["base"].lower == decision.comparisons["base"].upper == 0
    assert not decision.comparisons["base"].improved


def test_already_live_passes_without_statistics(tmp_path, decided, digests):
    decision = decided(tmp_path, {}, already_live=True, champion=digests["challenger"])
    assert decision.verdict == "pass" and decision.reason.startswith("already live")
    assert decision.comparisons == {} and decision.metrics == {}


def test_already_live_of_another_release_is_refused(tmp_path, decided, digests):
    with pytest.raises(GateError, match="is live already, and name sha256:ccc"):
        decided(tmp_path, {}, already_live=True, champion=digests["champion"])


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ({"metric": "perplexity", "at_most": 3.0}, "perplexity is .*, allowed is at most 3"),
        ({"metric": "nll_per_token", "at_least": 50.0}, "nll_per_token is .*, allowed is at least 50"),
    ],
)
def test_a_broken_bound_fails_a_challenger_that_is_otherwise_better(tmp_path, decided, noisy, bound, words):
    config = GateConfig(resamples=999, bounds=[bound])
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(-0.3, seed=1)}, config)
    assert decision.verdict == "fail" and not decision.bounds[0].ok
    assert decision.comparisons["base"].verdict == "pass"
    assert re.search(words, decision.reason)


def test_bounds_that_hold_are_reported_and_change_nothing(tmp_path, decided, noisy):
    config = GateConfig(resamples=999, bounds=[{"metric": "nats_per_byte", "at_most": 5.0, "at_least": 0.01}])
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(-0.3, seed=1)}, config)
    assert decision.verdict == "pass" and [check.ok for check in decision.bounds] == [True, True]


def test_metrics_are_those_of_the_evaluation(tmp_path, decided, noisy):
    metrics = {name: {"perplexity": 3.0 + row} for row, name in enumerate(("base", "challenger"))}
    config = GateConfig(resamples=999, bounds=[{"metric": "perplexity", "at_most": 3.5}])
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(-0.3, seed=1)}, config, metrics=metrics)
    assert decision.metrics == metrics
    assert decision.verdict == "fail" and decision.bounds[0].value == 4.0


def test_an_absurd_loss_still_gives_a_finite_report(tmp_path, decided, noisy):
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(5000, seed=1)})
    assert decision.verdict == "fail"
    json.loads(decision.to_json())


def test_another_tokenizer_switches_every_comparison_to_bytes(tmp_path, decided, noisy):
    losses = {"base": noisy(0), "champion": noisy(0, seed=1), "challenger": noisy(-0.3, seed=2)}
    tokenizers = {"base": "sha256:1", "champion": "sha256:2", "challenger": "sha256:2"}
    decision = decided(tmp_path, losses, tokenizers=tokenizers, tokens={"base": np.full(200, 12)})
    assert decision.unit == "nats/byte"
    assert {comparison.unit for comparison in decision.comparisons.values()} == {"nats/byte"}
    # 10 tokens and 40 bytes each: a quarter of the difference per token.
    assert decision.comparisons["champion"].difference == pytest.approx(-0.3 / 4, abs=0.01)


def test_another_template_with_the_same_tokenizer_switches_to_bytes_too(tmp_path, decided, noisy):
    """A template that ends a turn with one more token counts otherwise, in answers that are the same."""
    losses = {"base": noisy(0), "champion": noisy(0, seed=1), "challenger": noisy(-0.3, seed=2)}
    decision = decided(tmp_path, losses, tokens={"champion": np.full(200, 11)})
    assert decision.verdict == "pass" and decision.unit == "nats/byte"
    assert {comparison.unit for comparison in decision.comparisons.values()} == {"nats/byte"}


def test_each_unit_has_its_own_margin(tmp_path, decided, noisy):
    """0.1 nats per token worse is 0.025 per byte."""
    losses = {"base": noisy(0), "challenger": noisy(0.1, spread=0.01, seed=1)}
    other = {"base": "sha256:1", "challenger": "sha256:2"}
    wide_per_token = GateConfig(resamples=999, margin=0.2, margin_per_byte=0.01)
    assert decided(tmp_path, losses, wide_per_token).verdict == "pass"
    decision = decided(tmp_path, losses, wide_per_token, tokenizers=other)
    assert decision.verdict == "fail" and decision.margin == 0.01 and "margin 0.01, n=200" in decision.reason
    wide_per_byte = GateConfig(resamples=999, margin=0.02, margin_per_byte=0.05)
    assert decided(tmp_path, losses, wide_per_byte, tokenizers=other).verdict == "pass"
    assert decided(tmp_path, losses, wide_per_byte).verdict == "fail"


def test_the_two_default_margins_are_equally_strict_at_four_bytes_to_a_token():
    assert pytest.approx(4 * GateConfig().margin_per_byte) == GateConfig().margin


def test_swapping_the_sides_flips_the_sign(tmp_path, write_scores, noisy):
    scores = read_scores(write_scores(tmp_path, {"base": noisy(0), "challenger": noisy(-0.2, seed=1)})).models
    forth = compare(scores["challenger"], scores["base"], "nats/token", CONFIG)
    back = compare(scores["base"], scores["challenger"], "nats/token", CONFIG)
    assert back.difference == pytest.approx(-forth.difference)
    assert back.lower == pytest.approx(-forth.upper, abs=0.002)
    assert (forth.verdict, back.verdict) == ("pass", "fail")


def test_equal_models_fail_at_no_more_than_the_nominal_rate(tmp_path, write_scores, noisy):
    """A/A with next to no margin: "fail" means that the lower bound missed zero, nominally in 5 % of the runs."""
    scores = read_scores(write_scores(tmp_path, {"base": noisy(0, n=80), "challenger": noisy(0, n=80)})).models
    config = GateConfig(resamples=999, margin=1e-9)
    verdicts = []
    for seed in range(500):
        noise = np.random.default_rng(seed).normal(0, 0.3, (2, 80)) * 10  # 10 tokens each
        sides = [replace(scores[name], nll_sum=noise[row]) for row, name in enumerate(("challenger", "base"))]
        verdicts.append(compare(*sides, "nats/token", config).verdict)
    assert 11 <= verdicts.count("fail") <= 39  # 25 plus or minus three standard deviations
    with_margin = GateConfig(resamples=999, margin=0.05)
    assert compare(*sides, "nats/token", with_margin).verdict != "fail"


def test_a_planted_regression_of_the_stated_size_is_caught(tmp_path, write_scores, noisy):
    """A loss that is worse than the margin by the minimum detectable effect fails in at least 80 % of the runs."""
    scores = read_scores(write_scores(tmp_path, {"base": noisy(0, n=80), "challenger": noisy(0, n=80)})).models
    config = GateConfig(resamples=999, margin=0.02)
    spread, n = 0.3, 80
    planted = config.margin + 2.4865 * spread / n**0.5
    caught = released = 0
    for seed in range(200):
        shift = np.random.default_rng(seed).normal(planted, spread, n) * 10
        worse = replace(scores["challenger"], nll_sum=scores["base"].nll_sum + shift)
        verdict = compare(worse, scores["base"], "nats/token", config).verdict
        caught += verdict == "fail"
        released += verdict == "pass"
    assert caught >= 0.8 * 200 - 3 * (200 * 0.8 * 0.2) ** 0.5
    assert caught >= 155
    assert released <= 2


def test_what_is_no_worse_by_the_margin_passes_at_the_nominal_rate_when_questions_repeat(tmp_path, write_scores, noisy):
    """A true difference of exactly the margin: "pass" and "fail" are wrong in 5 % of the runs each."""
    questions = [f"q{row // 10}" for row in range(400)]
    losses = {"base": noisy(0, n=400), "challenger": noisy(0, n=400)}
    scores = read_scores(write_scores(tmp_path, losses, questions=questions)).models
    config = GateConfig(resamples=999, margin=0.02)
    verdicts = []
    for seed in range(500):
        random = np.random.default_rng(seed)
        differences = 0.02 + np.repeat(random.normal(0, 0.2, 40), 10) + random.normal(0, 0.2, 400)
        shifted = replace(scores["challenger"], nll_sum=scores["base"].nll_sum + 10 * differences)
        verdicts.append(compare(shifted, scores["base"], "nats/token", config).verdict)
    # 25 plus or minus three standard deviations; drawing rows gives 114 and 132
    assert 11 <= verdicts.count("pass") <= 39
    assert 11 <= verdicts.count("fail") <= 39


def test_examples_of_the_same_question_are_told_apart_from_questions(tmp_path, decided, noisy):
    questions = [f"q{row // 10}" for row in range(400)]
    losses = {"base": np.repeat(noisy(0, n=40), 10), "challenger": np.repeat(noisy(-0.3, n=40, seed=1), 10)}
    decision = decided(tmp_path, losses, questions=questions)
    once = decided(tmp_path, {name: values[::10] for name, values in losses.items()})
    comparison, alone = decision.comparisons["base"], once.comparisons["base"]
    assert (comparison.n, comparison.examples, alone.n, alone.examples) == (40, 400, 40, 40)
    # ten copies of an example say what one says
    assert comparison.upper == pytest.approx(alone.upper) and comparison.lower == pytest.approx(alone.lower)
    assert comparison.minimum_detectable_effect == pytest.approx(alone.minimum_detectable_effect)
    assert "n=40 questions (400 examples)" in decision.reason and once.reason.endswith("n=40)")


def test_many_examples_of_few_questions_are_too_few(tmp_path, decided, noisy):
    questions = [f"q{row % 10}" for row in range(200)]
    decision = decided(tmp_path, {"base": noisy(0), "challenger": noisy(-2, seed=1)}, questions=questions)
    assert decision.verdict == "inconclusive"
    assert decision.reason.startswith("200 examples of 10 questions are too few to compare with the base")


# ---------------------------------------------------------------------------------------------- refusals


def test_different_token_counts_are_not_compared_per_token(tmp_path, write_scores, noisy):
    losses = {"base": noisy(0), "challenger": noisy(0, seed=1)}
    scores = read_scores(write_scores(tmp_path, losses, tokens={"base": np.full(200, 11)})).models
    with pytest.raises(GateError, match="base and challenger count different tokens in the same answers"):
        differences(scores["challenger"], scores["base"], "nats/token")
    assert differences(scores["challenger"], scores["base"], "nats/byte").shape == (200,)


def test_different_examples_are_refused(tmp_path, decided, noisy):
    ids = {"base": [f"x{row}" for row in range(200)]}
    with pytest.raises(GateError, match=r"400 examples are on one side only .*score both on the same examples"):
        decided(tmp_path, {"base": noisy(0), "challenger": noisy(0, seed=1)}, ids=ids)


def test_different_numbers_of_examples_are_refused(tmp_path, decided, noisy):
    with pytest.raises(GateError, match="base has 200 scores and challenger 198"):
        decided(tmp_path, {"base": noisy(0), "challenger": noisy(0, seed=1)[:198]})


def test_different_answers_under_the_same_id_are_refused(tmp_path, decided, noisy):
    lengths = {"base": np.array([40] * 199 + [41])}
    with pytest.raises(GateError, match="different answers to example e0199"):
        decided(tmp_path, {"base": noisy(0), "challenger": noisy(0, seed=1)}, lengths=lengths)


def test_an_example_that_is_scored_twice_is_refused(tmp_path, decided, noisy):
    ids = {"base": ["e0000"] * 200}
    with pytest.raises(GateError, match="base has two scores for example e0000"):
        decided(tmp_path, {"base": noisy(0), "challenger": noisy(0, seed=1)}, ids=ids)


@pytest.mark.parametrize("fact", ["tokenizers", "metrics"])
def test_a_model_that_the_summary_does_not_know_is_refused(tmp_path, decided, noisy, fact):
    with pytest.raises(GateError, match="does not name the tokenizer and the metrics of challenger"):
        decided(tmp_path, {"base": noisy(0), "challenger": noisy(0)}, **{fact: {"base": {"perplexity": 2.0}}})


@pytest.mark.parametrize("missing", ["base", "champion", "challenger"])
def test_a_missing_model_is_refused(tmp_path, decided, noisy, digests, missing):
    losses = {name: noisy(0) for name in digests if name != missing}
    with pytest.raises(GateError, match=f"no scores of {missing}"):
        decided(tmp_path, losses, champion=digests["champion"])


def test_scores_of_a_champion_that_is_none_are_refused(tmp_path, decided, noisy, digests):
    with pytest.raises(GateError, match="no release is named as champion"):
        decided(tmp_path, {name: noisy(0) for name in digests}, champion=None)


def test_scores_of_an_unknown_model_are_refused(tmp_path, decided, noisy):
    with pytest.raises(GateError, match="scores of 'rival'"):
        decided(tmp_path, {"base": noisy(0), "rival": noisy(0)})


def test_a_loss_that_is_not_a_number_is_refused(tmp_path, decided, noisy):
    losses = {"base": noisy(0), "challenger": noisy(0)}
    losses["challenger"][3] = np.nan
    with pytest.raises(GateError, match="base and challenger cannot be compared: a loss is not a finite number"):
        decided(tmp_path, losses)


def test_scores_that_do_not_name_the_questions_are_refused(tmp_path, write_scores, noisy):
    file = write_scores(tmp_path, {"base": noisy(0)}) / "scores.parquet"
    parquet.write_table(parquet.read_table(file).drop_columns("question_digest"), file)
    with pytest.raises(GateError, match=r"no readable scores .*question_digest"):
        read_scores(tmp_path)


def test_a_folder_without_scores_is_refused_as_input(tmp_path):
    with pytest.raises(InputError, match="no readable scores"):
        read_scores(tmp_path)


@pytest.mark.parametrize("damage", ["scores.parquet", "scores.json"])
def test_damaged_scores_are_refused(tmp_path, write_scores, noisy, damage):
    write_scores(tmp_path, {"base": noisy(0)})
    (tmp_path / damage).write_bytes(b"{}")
    with pytest.raises(GateError, match="no readable scores"):
        read_scores(tmp_path)
