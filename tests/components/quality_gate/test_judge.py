"""The step around the decision: its files, its report, its place beside the release, and the KFP faces."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from components.quality_gate.component import quality_gate, stop
from components.quality_gate.config import GateConfig
from components.quality_gate.judge import attest, judge, read_verdict, verdict_metrics
from components.step_config import RunSettings
from components.store import Store

CONFIG = GateConfig(resamples=999, bounds=[{"metric": "perplexity", "at_most": 1000.0}])


@pytest.fixture
def scored(tmp_path, write_scores, noisy):
    losses = {"base": noisy(0.4), "champion": noisy(0, seed=1), "challenger": noisy(-0.1, seed=2)}
    return write_scores(tmp_path / "scores", losses)


def test_the_verdict_holds_what_its_readers_read(tmp_path, scored, digests):
    judge(scored, CONFIG, tmp_path)
    verdict = read_verdict(tmp_path)
    assert verdict["verdict"] == "pass" and verdict["reference"] == "champion" and verdict["unit"] == "nats/token"
    assert {name: verdict[name] for name in digests} == digests
    assert set(verdict["comparisons"]) == {"champion", "base"}
    assert {"difference", "lower", "upper", "n", "improved", "minimum_detectable_effect"} <= set(
        verdict["comparisons"]["base"]
    )
    assert verdict["bounds"][0].keys() == {"metric", "value", "limit", "ok"}
    assert set(verdict["metrics"]["challenger"]) == {"perplexity", "nll_per_token", "nats_per_byte"}


def test_the_same_scores_give_the_same_bytes(tmp_path, scored):
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        judge(scored, CONFIG, tmp_path / name)
    for file in ("verdict.json", "report.html"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_the_report_shows_every_difference_and_says_it_in_words(tmp_path, scored):
    judge(scored, CONFIG, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Pass: it may go live." in page
    assert page.count("<svg") == 2
    assert "Challenger against champion: it is better on" in page and "of 200 examples" in page
    assert "at most 1000" in page and "questions</th>" in page
    assert "<script" not in page


def test_a_report_of_what_is_already_live_has_no_pictures(tmp_path, write_scores, digests):
    write_scores(tmp_path / "scores", {}, already_live=True, champion=digests["challenger"])
    judge(tmp_path / "scores", CONFIG, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Already live" in page and "<svg" not in page


def test_already_live_does_not_replace_the_verdict_that_made_it_live(tmp_path):
    store = Store(RunSettings(name="t", store=str(tmp_path)))
    path = store.attestations("sha256:d") / "verdict.json"
    attest(store, {"challenger": "sha256:d", "verdict": "pass", "already_live": True})
    assert json.loads(path.read_text())["already_live"]
    attest(store, {"challenger": "sha256:d", "verdict": "pass", "already_live": False, "reason": "better"})
    attest(store, {"challenger": "sha256:d", "verdict": "pass", "already_live": True})
    assert json.loads(path.read_text())["reason"] == "better"


def test_metrics_are_flat_finite_numbers(tmp_path, scored):
    judge(scored, CONFIG, tmp_path)
    metrics = verdict_metrics(read_verdict(tmp_path))
    assert metrics["margin"] == 0.02 and metrics["champion_n"] == metrics["champion_examples"] == 200
    assert metrics["champion_upper"] > metrics["champion_difference"] > metrics["champion_lower"]
    assert all(isinstance(value, int | float) for value in metrics.values())


class Metrics:
    def __init__(self):
        self.values = {}

    def log_metric(self, name, value):
        self.values[name] = value


def run_face(tmp_path, scored, number):
    """One execution of the face, as KFP would call it; integers arrive as floats."""
    outputs = {name: SimpleNamespace(path=str(tmp_path / f"{name}{number}")) for name in ("verdict", "report")}
    metrics = Metrics()
    gate = CONFIG.model_dump(mode="json") | {"resamples": 999.0, "min_examples": 20.0}
    run = {"name": "t", "store": str(tmp_path / "store"), "run_id": f"r{number}"}
    answer = quality_gate.python_func(
        run=run, gate=gate, scores=SimpleNamespace(path=str(scored)), metrics=metrics, **outputs
    )
    return answer, outputs, metrics.values


def test_the_face_returns_one_plain_word_and_attests(tmp_path, scored, digests, capsys):
    answer, outputs, metrics = run_face(tmp_path, scored, 1)
    assert answer == "pass"
    assert "<h1>Quality gate" in (tmp_path / "report1").read_text()
    assert metrics["challenger_perplexity"] > 1
    attested = tmp_path / "store/attestations" / digests["challenger"].removeprefix("sha256:") / "verdict.json"
    assert json.loads(attested.read_text())["verdict"] == "pass"
    assert '"event": "verdict"' in capsys.readouterr().out

    again, _, _ = run_face(tmp_path, scored, 2)
    assert again == "pass" and '"event": "reused"' in capsys.readouterr().out

    reason = stop.python_func(verdict="fail", decision=outputs["verdict"])
    assert reason.startswith("fail: ")
