"""Every bundled run file is valid, names what there is, and fits the pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from components.resolve_champion.resolve import validate
from pipelines import run_config
from pipelines.placement import PROFILES
from pipelines.run_config import RunConfig
from tests.pipelines import ir

ROOT = Path(__file__).resolve().parents[2]
RUNS = sorted(path.stem for path in run_config.RUNS.glob("*.yaml"))


@pytest.fixture(params=RUNS)
def run(request, monkeypatch) -> str:
    """The name of a bundled run file, read from the project's root as its relative paths want it."""
    monkeypatch.chdir(ROOT)
    return request.param


def content(run: str) -> dict:
    return yaml.safe_load((run_config.RUNS / f"{run}.yaml").read_text(encoding="utf-8"))


def test_the_runs_of_the_quickstart_are_there():
    assert {"smoke", "laptop", "distilgpt2", "qwen2.5-7b-lora"} <= set(RUNS)


def test_it_is_valid_and_bears_its_files_name(run):
    assert run_config.load(run).run.name == run


def test_it_begins_with_what_it_is_for(run):
    first = (run_config.RUNS / f"{run}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# [A-Z].{20,}[.:]", first)


def test_its_data_and_texts_are_there(run):
    config = run_config.load(run)
    corpus = config.base.scratch.corpus if config.base.scratch else []
    named = [name for name in [*config.data.sources, *corpus] if "://" not in name]
    sections = [section for section in content(run).values() if isinstance(section, dict)]
    named += [text for section in sections for key, text in section.items() if key.endswith("_file")]
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_its_base_is_pinned_and_licensed(run):
    base = run_config.load(run).base
    assert base.licence
    assert base.source == "scratch" or base.revision


def test_its_placement_is_a_profile(run):
    assert run_config.load(run).placement in PROFILES


def test_it_fits_the_pipeline(run, compiled):
    """What it passes is what the compiled pipeline takes, as the first step reads it: numbers are floats there."""
    config = run_config.load(run)
    inputs = ir.parse(compiled(run, config.placement)).spec.root.input_definitions.parameters
    assert set(config.parameters()) == set(inputs)
    handed_over = json.loads(json.dumps(config.parameters()), parse_int=float)
    sections = validate(handed_over)
    assert RunConfig(**sections, placement=config.placement) == config


def test_it_compiles_for_its_own_profile_to_a_valid_pipeline(run, compiled):
    assert ir.find_problems(compiled(run, run_config.load(run).placement)) == []


def test_no_two_runs_share_a_service_on_one_store(monkeypatch):
    """Else a trial run would replace what the laptop serves."""
    monkeypatch.chdir(ROOT)
    configs = [run_config.load(name) for name in RUNS]
    assert len({(config.run.store, config.rollout.service) for config in configs}) == len(RUNS)


def test_the_smoke_run_leaves_the_laptop_runs_port_and_store_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    smoke, laptop = run_config.load("smoke"), run_config.load("laptop")
    assert smoke.rollout.port != laptop.rollout.port
    assert smoke.run.store != laptop.run.store


def test_a_laptop_finishes_in_minutes(monkeypatch):
    """280 tokens a second are trained there; the plan is at most 80,000 tokens, 100 test rows, 16 answers of 60."""
    monkeypatch.chdir(ROOT)
    config = run_config.load("laptop")
    assert 0 < config.training.max_train_tokens <= 80_000
    assert 0 < config.evaluation.max_examples <= 100
    assert config.evaluation.samples * config.evaluation.sample_tokens <= 16 * 60
