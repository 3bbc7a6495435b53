"""What is refused before anything is sent, and what a submission is named."""

from __future__ import annotations

import re

import pytest

from components import images
from pipelines.run_config import RunConfig, RunFileError
from pipelines.submit import find_misread, find_problems, prepare
from tests.pipelines import engines
from tests.pipelines.engines import registry  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("registry")


def changed(config: RunConfig, section: str, **values: object) -> RunConfig:
    """The configuration with other values in a section, validated."""
    content = config.model_dump()
    content[section] |= values
    return RunConfig.model_validate(content)


# --- texts -----------------------------------------------------------------------------------------------------

CHAT_TEMPLATE = """
{%- for message in messages %}
  {{- '<|im_start|>' + message['role'] + "\\n" + message['content'] | trim }}
  {%- if loop.last %}{{ eos_token }}{% endif %}
{%- endfor %}
{{- {'a': {'b': 1}} }}
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It costs $5 or $ 7, } {, }} and $(an unfinished thing",
        CHAT_TEMPLATE,
        "{{ item }} {{items[0]}} {{ workflow }} {{ inputs }} {{ retry }}",
    ],
)
def test_a_text_that_arrives_as_it_is(text):
    assert find_misread(text) == ""


@pytest.mark.parametrize(
    "part",
    [
        "{{workflow.name}}",
        "{{ item.text }}",
        "{{tasks.finetune.outputs}}",
        "{{ inputs.parameters.component }}",
        "{{ retries }}",
        "{{ tasks }}",
        "{{steps}}",
        "{{=1 + 1}}",
        "{{$}}",
        "{{$.inputs.parameters['run']}}",
        "{{ never closed",
        "$$",
        "$(HOME)",
        "$(KFP_POD_NAME)",
    ],
)
def test_a_text_that_somebody_on_the_way_would_change(part):
    assert find_misread(f"Before. {part}")
    assert find_misread(f"{{{{ message['content'] }}}} {part} after")


def test_after_a_close_the_next_opening_counts():
    assert "without '}}'" in find_misread("{{ a }} {{ b")


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("data", {"system_prompt": "Pay in $$."}, r"data.system_prompt: '\$\$' would be replaced by Kubernetes"),
        ("base", {"chat_template": "{{ item.text }}"}, r"base.chat_template: '\{\{ item.text \}\}' would be replaced"),
        ("data", {"system_prompt": "x" * 120_000}, "a step takes 100,000; shorten"),
        ("run", {"store": ".slipway"}, "run.store: '.slipway': what a pod writes elsewhere is lost when it ends"),
        ("run", {"store": "/data/slipway"}, "run.store: '/data/slipway': .* /mnt/slipway/store"),
        ("run", {"store": "/mnt/slipway/../data"}, "run.store"),
        ("run", {"store": "/mnt/slipway"}, "run.store"),
        ("rollout", {"target": "local"}, "rollout.target: 'local'.* set target: kserve"),
        ("data", {"sources": ["gs://b/a.jsonl", "data/a.jsonl"]}, "data.sources: 'data/a.jsonl': the pods do not have"),
        ("data", {"sources": ["a.jsonl"]}, r"mounts, for example /mnt/slipway/data/a\.jsonl$"),
        ("data", {"sources": ["/home/me/a.jsonl"]}, "data.sources: '/home/me/a.jsonl'"),
        ("base", {"source": "models/mine", "revision": ""}, "base.source: 'models/mine': the pods do not have it"),
        (
            "base",
            {"source": "scratch", "revision": "", "scratch": {"corpus": ["a.txt"], "context_length": 4096}},
            "base.scratch.corpus: 'a.txt'",
        ),
    ],
)
def test_what_only_a_pod_would_find_out_is_refused(tmp_path, section, values, says):
    config = changed(engines.load(tmp_path), section, **values)
    (problem,) = find_problems(config, "l4", "kubeflow")
    assert re.search(says, problem)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("run", {"store": "/mnt/slipway/deep/store"}),
        ("data", {"sources": ["/mnt/slipway/data/*.jsonl", "https://example.org/a.jsonl"]}),
        ("base", {"source": "/mnt/slipway/models/mine", "revision": ""}),
        ("base", {"source": "gs://bucket/model", "revision": ""}),
        ("base", {"source": "release:champion", "revision": ""}),
    ],
)
def test_what_a_pod_can_reach_is_taken(tmp_path, section, values):
    assert list(find_problems(changed(engines.load(tmp_path), section, **values), "l4", "kubeflow")) == []


def test_vertex_keeps_its_store_in_a_bucket(tmp_path):
    (problem,) = find_problems(engines.load(tmp_path), "l4", "vertex")
    assert "name a folder on a bucket, which Vertex AI mounts at /gcs" in problem
    assert list(find_problems(engines.load(tmp_path, store="/gcs/bucket/store"), "l4", "vertex")) == []


def test_images_without_a_registry_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CPU", "slipway-python:1-cpu")
    (problem,) = find_problems(engines.load(tmp_path), "l4", "kubeflow")
    assert problem.startswith("SLIPWAY_REGISTRY is not set, and a cluster cannot pull 'slipway-python:1-cpu'")


def test_all_problems_are_told_at_once(tmp_path):
    config = changed(engines.load(tmp_path, store="here"), "rollout", target="local")
    with pytest.raises(RunFileError) as refused:
        prepare(config, "l4", "kubeflow", "")
    assert len(str(refused.value).splitlines()) == 2


# --- names -----------------------------------------------------------------------------------------------------


def test_equal_content_has_one_name_whoever_submits_it(tmp_path):
    first = prepare(engines.load(tmp_path), "l4", "kubeflow", "c0ffee")
    second = prepare(engines.load(tmp_path), "l4", "kubeflow", "c0ffee")
    assert (first.name, first.version) == (second.name, second.version)
    assert re.fullmatch(r"nightly-energy-[0-9a-f]{12}", first.name)


def test_the_runs_identifier_is_no_content_and_the_commit_is_none_of_the_pipeline(tmp_path):
    config = engines.load(tmp_path)
    named = config.model_copy(update={"run": config.run.model_copy(update={"run_id": "x", "commit": "old"})})
    first, second = prepare(config, "l4", "kubeflow", "a"), prepare(named, "l4", "kubeflow", "a")
    assert (first.digest, first.parameters()) == (second.digest, second.parameters())
    other = engines.submission(tmp_path, commit="b")
    assert (other.version == first.version, other.digest == first.digest) == (True, False)


def test_another_placement_is_another_content(tmp_path):
    config = engines.load(tmp_path)
    assert prepare(config, "l4", "kubeflow", "").digest != prepare(config, "a100", "kubeflow", "").digest


def test_the_parameters_of_a_submission_are_valid_in_the_first_step(tmp_path):
    submission = engines.submission(tmp_path)
    parameters = submission.parameters("nightly-1")
    assert RunConfig.model_validate({**parameters, "placement": "l4"}).run.run_id == "nightly-1"
    assert submission.parameters()["run"].keys() == parameters["run"].keys() - {"run_id"}


@pytest.mark.parametrize(("suffix", "ours"), [("", True), ("-2", True), ("-17", True), ("-x", False), ("2", False)])
def test_which_runs_are_of_a_content(tmp_path, suffix, ours):
    submission = engines.submission(tmp_path)
    assert submission.names_run(submission.name + suffix) is ours
    assert not submission.names_run("another-" + submission.name)
