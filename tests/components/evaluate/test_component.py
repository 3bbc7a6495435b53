"""The KFP face: metrics, report, and what is told to MLflow."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from components import tracking
from components.evaluate.component import evaluate
from tests.components.artifacts import make_champion


class Metrics(dict):
    """As much of dsl.Metrics as the face calls."""

    def log_metric(self, name: str, value: float) -> None:
        self[name] = value


@pytest.fixture
def told(monkeypatch) -> list[tuple]:
    """What the face would have told MLflow."""
    calls: list[tuple] = []
    monkeypatch.setattr(tracking, "log_step", lambda run, *rest: calls.append(rest))
    return calls


@pytest.fixture
def face(inputs, tmp_path):
    def run(champion: Path, **fields):
        outputs = {name: SimpleNamespace(path=str(tmp_path / name)) for name in ("scores", "report")}
        metrics = Metrics()
        artifacts = {
            "base": inputs.base,
            "champion": champion,
            "challenger": inputs.challenger,
            "examples": inputs.examples,
        }
        evaluate.python_func(
            run={"name": "test", "store": str(tmp_path / "store")},
            evaluation={"samples": 0, "max_examples": 2} | fields,
            **{name: SimpleNamespace(path=str(path)) for name, path in artifacts.items()},
            **outputs,
            metrics=metrics,
        )
        return metrics, json.loads((tmp_path / "scores" / "scores.json").read_bytes()), tmp_path / "report"

    return run


def test_metrics_are_logged_once_and_shown_every_time(face, inputs, told):
    metrics, summary, report = face(inputs.none)
    assert metrics == {
        f"{model}.{metric}": summary["metrics"][model][metric]
        for model in ("base", "challenger")
        for metric in ("perplexity", "nll_per_token", "nats_per_byte")
    }
    assert "2 test examples" in report.read_text()
    ((step, params, flat, (page,)),) = told
    assert (step, params["max_examples"], flat) == ("evaluate", 2, metrics)
    assert page.name == "report.html"
    assert face(inputs.none)[0] == metrics
    assert len(told) == 1


def test_another_champion_is_another_evaluation(face, inputs, told):
    face(inputs.none)
    metrics, summary, _ = face(inputs.champion)
    assert summary["champion"] is not None and "champion.perplexity" in metrics
    assert len(told) == 2


def test_what_is_live_already_logs_nothing(face, inputs, told, tmp_path):
    metrics, summary, report = face(make_champion(tmp_path / "live", inputs.challenger))
    assert summary["already_live"] and metrics == {} and told == []
    assert "Nothing was scored" in report.read_text()
