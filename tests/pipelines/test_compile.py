"""The compiled pipeline is whole, is the same every time, and the checker that says so sees planted mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from components.step_config import InputError
from pipelines import run_config
from pipelines.compile import compile_pipeline
from pipelines.placement import PROFILES
from pipelines.run_config import RunConfig
from tests.pipelines import ir

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "resolve-champion",
    "fetch-base",
    "prepare-data",
    "finetune",
    "package-release",
    "package-base",
    "evaluate",
    "quality-gate",
    "rollout",
    "stop",
}
PARAMETERS = ["run", "data", "base", "training", "evaluation", "gate", "rollout"]


def find_broken_promises(documents: list[Any]) -> list[str]:
    """What this pipeline promises beside being valid: its steps, no cache of KFP's, the gate's branch, its defaults."""
    pipeline = ir.parse(documents)
    problems = [f"{name} is missing" for name in sorted(STEPS - set(pipeline.steps()))]
    problems += [f"{name} is unknown" for name in sorted(set(pipeline.steps()) - STEPS)]
    problems += [f"{name} is cached" for name, task in pipeline.steps().items() if task.caching_options.enable_cache]
    for name in STEPS & set(pipeline.steps()):
        container = pipeline.container(name)
        problems += [f"{name} runs {container.image}"] * ("slipway-python:" not in container.image)
    inputs = pipeline.spec.root.input_definitions.parameters
    problems += [f"the parameter {name} is missing" for name in PARAMETERS if name not in inputs]
    problems += [
        f"the parameter {name} has no default"
        for name, one in inputs.items()
        if not one.default_value.WhichOneof("kind")
    ]
    return problems + find_wrong_branch(pipeline)


def find_wrong_branch(pipeline: ir.Pipeline) -> list[str]:
    """`If the verdict is pass: rollout. Else: stop`, and nothing that could fall between."""
    read = "inputs.parameter_values['pipelinechannel--quality-gate-Output']"
    wanted = {"rollout": f"{read} == 'pass'", "stop": f"!({read} == 'pass')"}
    found = {
        step: " ".join(branch.trigger_policy.condition.split())
        for _, dag in pipeline.dags()
        for branch in dag.dag.tasks.values()
        if branch.trigger_policy.condition
        for step in pipeline.spec.components[branch.component_ref.name].dag.tasks
    }
    return [] if found == wanted else [f"the branch is {found}"]


# --- as it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_the_pipeline_is_valid_and_keeps_its_promises(compiled, profile):
    documents = compiled("laptop", profile)
    assert ir.find_problems(documents) == []
    assert find_broken_promises(documents) == []


def test_the_defaults_are_the_run_files(compiled, monkeypatch):
    monkeypatch.chdir(ROOT)
    definitions = compiled("smoke")[0]["root"]["inputDefinitions"]["parameters"]
    defaults = {name: definition["defaultValue"] for name, definition in definitions.items()}
    config = run_config.load("smoke")
    assert RunConfig.model_validate({**defaults, "placement": config.placement}) == config


def test_kfp_loads_the_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    compile_pipeline(run_config.load("laptop"), "l4", tmp_path / "pipeline.yaml")
    loaded = components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    assert list(loaded.component_spec.inputs) == sorted(PARAMETERS)
    assert loaded.component_spec.description.startswith("Fine-tune a language model")


def test_it_stays_small_enough_for_etcd(compiled):
    """A workflow holds the definition about ten times; etcd takes 1.5 MiB."""
    assert len(json.dumps(compiled("laptop", "l4"))) < 100_000


def test_texts_with_every_kind_of_quote_survive(tmp_path):
    prompt = "Say \"no\" or 'yes'.\n#    run: dict [Default: {}]\n- on: {{ x }} … 7 °C\t--- \n..."
    config = RunConfig.model_validate(
        {
            "run": {"name": "quotes"},
            "data": {"sources": ["rows.jsonl"], "system_prompt": prompt},
            "base": {"source": "a-folder", "chat_template": "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"},
        }
    )
    compile_pipeline(config, "cpu", tmp_path / "pipeline.yaml")
    documents = ir.read_documents((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))
    assert ir.find_problems(documents) == []
    defaults = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert defaults["data"]["defaultValue"]["system_prompt"] == prompt
    assert defaults["base"]["defaultValue"]["chat_template"] == config.base.chat_template


def test_the_same_bytes_in_every_process(tmp_path):
    code = """
import sys
from pathlib import Path
from pipelines import run_config
from pipelines.compile import compile_pipeline
compile_pipeline(run_config.load("laptop"), "l4", Path(sys.argv[1]))
"""
    outputs = [tmp_path / f"{seed}.yaml" for seed in ("0", "1", "random")]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, output], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": output.stem}
        )
        for output in outputs
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert len({output.read_bytes() for output in outputs}) == 1


def test_an_output_that_is_a_folder_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="is a folder; name a file"):
        compile_pipeline(run_config.load("laptop"), "cpu", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- with a mistake in it --------------------------------------------------------------------------------------

Mutation = Callable[[dict[str, Any], dict[str, Any]], object]
"""Plants a mistake: (definition, platform) are the two documents."""


def root_task(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return spec["root"]["dag"]["tasks"][name]


def container(spec: dict[str, Any], step: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def branch(spec: dict[str, Any], number: int) -> dict[str, Any]:
    return spec["components"]["comp-condition-branches-1"]["dag"]["tasks"][f"condition-{number}"]


def rename(mapping: dict[str, Any], old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


def wait_in_a_circle(spec: dict[str, Any], _: Any) -> None:
    root_task(spec, "fetch-base")["dependentTasks"].append("finetune")


def read_in_a_circle(spec: dict[str, Any], _: Any) -> None:
    source = {"taskOutputArtifact": {"producerTask": "evaluate", "outputArtifactKey": "scores"}}
    root_task(spec, "prepare-data")["inputs"]["artifacts"]["base"] = source


def nest_in_a_circle(spec: dict[str, Any], _: Any) -> None:
    spec["components"]["comp-condition-2"]["dag"]["tasks"]["rollout"]["componentRef"]["name"] = "comp-condition-2"


def take_parameter_name(spec: dict[str, Any], name: str) -> None:
    spec["components"]["comp-stop"]["inputDefinitions"]["parameters"][name] = {
        "parameterType": "STRING",
        "isOptional": True,
    }


def output_from(spec: dict[str, Any], task: str, key: str) -> None:
    selector = {"producerSubtask": task, "outputParameterKey": key}
    spec["root"]["dag"]["outputs"] = {"parameters": {"verdict": {"valueFromParameter": selector}}}


def compare_with(spec: dict[str, Any], value: str) -> None:
    policy = branch(spec, 2)["triggerPolicy"]
    policy["condition"] = policy["condition"].replace("'pass'", value)


INVALID: dict[str, tuple[Mutation, str]] = {
    # what the protobufs refuse
    "unknown field of a task": (lambda s, _: root_task(s, "finetune").update(gpu=1), 'no field named "gpu"'),
    "unknown field of a container": (
        lambda s, _: container(s, "finetune").update(imagee="x"),
        'no field named "imagee"',
    ),
    "unknown field of the platform": (
        lambda _, p: p["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"].update(gpu=1),
        'no field named "gpu"',
    ),
    "wrong type": (lambda s, _: root_task(s, "finetune").update(dependentTasks="fetch-base"), "dependentTasks"),
    "unknown platform": (lambda _, p: rename(p["platforms"], "kubernetes", "nomad"), "nobody reads the platform nomad"),
    # components and executors
    "missing component": (lambda s, _: s["components"].pop("comp-stop"), "the component 'comp-stop' does not exist"),
    "missing executor": (
        lambda s, _: s["deploymentSpec"]["executors"].pop("exec-finetune"),
        "comp-finetune: the executor exec-finetune does not exist",
    ),
    "unused component": (
        lambda s, _: s["components"].update({"comp-spare": s["components"]["comp-finetune"]}),
        "no task uses comp-spare",
    ),
    "unused executor": (
        lambda s, _: s["deploymentSpec"]["executors"].update({"exec-spare": {"container": {"image": "x"}}}),
        "exec-spare is no component's executor",
    ),
    "empty component": (
        lambda s, _: s["components"]["comp-stop"].pop("executorLabel"),
        "neither a graph nor an executor",
    ),
    "no image": (lambda s, _: container(s, "stop").pop("image"), "exec-stop has no image"),
    "no root graph": (lambda s, _: s["root"].pop("dag"), "the root is no graph"),
    "platform of a missing executor": (
        lambda _, p: rename(
            p["platforms"]["kubernetes"]["deploymentSpec"]["executors"], "exec-finetune", "exec-fine-tune"
        ),
        "the platform configures the executor exec-fine-tune, which does not exist",
    ),
    "no schema version": (lambda s, _: s.pop("schemaVersion"), "schemaVersion or sdkVersion is missing"),
    # producers
    "missing producer": (
        lambda s, _: root_task(s, "evaluate")["inputs"]["artifacts"]["base"]["taskOutputArtifact"].update(
            producerTask="package-bass"
        ),
        "it waits for package-bass, which is no task beside it",
    ),
    "missing output artifact": (
        lambda s, _: root_task(s, "evaluate")["inputs"]["artifacts"]["base"]["taskOutputArtifact"].update(
            outputArtifactKey="model"
        ),
        "the artifact base should be system.Model, and is model, which package-base does not make",
    ),
    "missing output parameter": (
        lambda s, _: s["components"]["comp-quality-gate"]["outputDefinitions"].pop("parameters"),
        "should be STRING, and is Output, which quality-gate does not make",
    ),
    "artifact of another type": (
        lambda s, _: root_task(s, "evaluate")["inputs"]["artifacts"]["base"]["taskOutputArtifact"].update(
            producerTask="prepare-data", outputArtifactKey="examples"
        ),
        "the artifact base should be system.Model, and is system.Dataset",
    ),
    "parameter of another type": (
        lambda s, _: s["components"]["comp-finetune"]["inputDefinitions"]["parameters"]["training"].update(
            parameterType="STRING"
        ),
        "the parameter training should be STRING, and is STRUCT",
    ),
    "constant of another type": (
        lambda s, _: root_task(s, "finetune")["inputs"]["parameters"].update(
            training={"runtimeValue": {"constant": "lora"}}
        ),
        "the parameter training should be STRUCT, and is a string_value",
    ),
    "input that the graph lacks": (
        lambda s, _: s["root"]["inputDefinitions"]["parameters"].pop("gate"),
        "and is gate, which the graph is not given",
    ),
    "artifact that the graph lacks": (
        lambda s, _: s["components"]["comp-condition-3"]["inputDefinitions"].pop("artifacts"),
        "and is pipelinechannel--quality-gate-verdict, which the graph is not given",
    ),
    "reads without waiting": (
        lambda s, _: root_task(s, "evaluate")["dependentTasks"].remove("package-base"),
        "it reads from package-base and does not wait for it",
    ),
    "waits for nobody": (
        lambda s, _: root_task(s, "evaluate")["dependentTasks"].append("warm-up"),
        "it waits for warm-up, which is no task beside it",
    ),
    # pods
    "one mount over another": (
        lambda _, p: ir.kubernetes_of(p, "rollout")["secretAsVolume"][0].update(mountPath="/mnt/slipway"),
        "exec-rollout: mounts two things at /mnt/slipway",
    ),
    "relative mount": (
        lambda _, p: ir.kubernetes_of(p, "rollout")["pvcMount"][0].update(mountPath="mnt"),
        "exec-rollout: mounts 'mnt', which is no absolute path",
    ),
    "a variable twice": (
        lambda s, _: (
            container(s, "rollout")["env"].append({"name": "HF_TOKEN", "value": "x"})
            or container(s, "rollout")["env"].append({"name": "HF_TOKEN", "value": "y"})
        ),
        "exec-rollout: sets HF_TOKEN twice",
    ),
    "root that must not be": (
        lambda _, p: ir.kubernetes_of(p, "stop")["securityContext"].update(runAsUser="0"),
        "exec-stop: must not be root, and is to run as user 0",
    ),
    # texts
    **{
        f"text {text}": (
            lambda s, _, text=text: s["root"]["inputDefinitions"]["parameters"]["base"]["defaultValue"].update(
                revision=text
            ),
            f"revision: the text '{text}' is a number to some YAML readers",
        )
        for text in ("12e5", "0o17", "-1.5E+3")
    },
    # exit handlers
    "cached exit handler": (
        lambda s, _: root_task(s, "quality-gate").update(
            triggerPolicy={"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}, cachingOptions={"enableCache": True}
        ),
        "root: quality-gate: it is an exit handler and cached",
    ),
    # inputs
    "required parameter not given": (
        lambda s, _: root_task(s, "finetune")["inputs"]["parameters"].pop("training"),
        "root: finetune: the parameter training is required and not given",
    ),
    "required artifact not given": (
        lambda s, _: root_task(s, "finetune")["inputs"]["artifacts"].pop("base"),
        "root: finetune: the artifact base is required and not given",
    ),
    "unknown input": (
        lambda s, _: rename(root_task(s, "finetune")["inputs"]["parameters"], "run", "runs"),
        "the parameter runs is given, but comp-finetune has none of that name",
    ),
    "default of another type": (
        lambda s, _: s["root"]["inputDefinitions"]["parameters"]["gate"].update(defaultValue="strict"),
        "root: the default of gate is a string_value, its type STRUCT",
    ),
    # circles
    "tasks wait for each other": (wait_in_a_circle, "root: tasks wait for each other: "),
    "tasks read from each other": (read_in_a_circle, "root: tasks wait for each other: "),
    "components contain each other": (nest_in_a_circle, "components contain each other: comp-condition-2"),
    # names
    "upper-case task": (
        lambda s, _: rename(s["root"]["dag"]["tasks"], "evaluate", "Evaluate"),
        "the name 'Evaluate' is not",
    ),
    "upper-case pipeline": (lambda s, _: s["pipelineInfo"].update(name="Train"), "the name 'Train' is not lower-case"),
    "underscore": (lambda s, _: s["pipelineInfo"].update(name="a_b"), "the name 'a_b' is not lower-case"),
    **{
        f"parameter {name}": (lambda s, _, name=name: take_parameter_name(s, name), f"the name '{name}' is a boolean")
        for name in ("n", "y", "on", "off", "Y", "No", "true")
    },
    # conditions
    "quote in a condition": (
        lambda s, _: compare_with(s, "'it\\'s'"),
        "its condition is no comparison of quote-free values",
    ),
    "other quote in a condition": (lambda s, _: compare_with(s, "'\"pass\"'"), "no comparison of quote-free values"),
    "condition cut off": (lambda s, _: compare_with(s, ""), "no comparison of quote-free values"),
    "open parenthesis": (lambda s, _: compare_with(s, "'pass')"), "no comparison of quote-free values"),
    "condition on what is not given": (
        lambda s, _: branch(s, 2)["inputs"].pop("parameters"),
        "its condition reads pipelinechannel--quality-gate-Output, which it is not given",
    ),
    # outputs of the whole
    "output of a missing task": (
        lambda s, _: output_from(s, "judge", "Output"),
        "the output verdict comes from nowhere",
    ),
    "missing output of a task": (
        lambda s, _: output_from(s, "quality-gate", "score"),
        "the output verdict comes from nowhere",
    ),
}


@pytest.mark.parametrize("mistake", INVALID)
def test_the_checker_sees(compiled, mistake):
    plant, says = INVALID[mistake]
    documents = compiled("laptop", "l4")
    plant(*documents)
    assert [problem for problem in ir.find_problems(documents) if says in problem]


def test_the_checker_takes_an_output_that_is_made(compiled):
    documents = compiled("laptop", "l4")
    output_from(documents[0], "quality-gate", "Output")
    assert ir.find_problems(documents) == []


@pytest.mark.parametrize("documents", [[], [{}, {}, {}], ["text"], [None]])
def test_the_checker_refuses_what_is_no_pipeline(documents):
    (problem,) = ir.find_problems(documents)
    assert problem.startswith("a pipeline is one or two mappings")


def test_a_boolean_name_in_the_yaml_is_not_lost_on_the_way_to_the_checker():
    """PyYAML reads `on:` as True, and leaves `n:` alone; other readers do otherwise."""
    assert list(yaml.safe_load("{on: 1, n: 2}")) == [True, "n"]


def drop_stop(spec: dict[str, Any], _: Any) -> None:
    del spec["components"]["comp-condition-branches-1"]["dag"]["tasks"]["condition-3"]
    del spec["components"]["comp-condition-3"], spec["components"]["comp-stop"]
    del spec["deploymentSpec"]["executors"]["exec-stop"]


BROKEN_PROMISES: dict[str, tuple[Mutation, str]] = {
    "a lone If": (drop_stop, "stop is missing"),
    "a cached step": (
        lambda s, _: root_task(s, "evaluate").update(cachingOptions={"enableCache": True}),
        "evaluate is cached",
    ),
    "a foreign image": (lambda s, _: container(s, "evaluate").update(image="python:3.11"), "evaluate runs python:3.11"),
    "a renamed step": (lambda s, _: rename(s["root"]["dag"]["tasks"], "evaluate", "score"), "score is unknown"),
    "another verdict": (lambda s, _: compare_with(s, "'inconclusive'"), "the branch is "),
    "an Else that is no Else": (
        lambda s, _: branch(s, 3)["triggerPolicy"].update(
            condition="inputs.parameter_values['pipelinechannel--quality-gate-Output'] == 'fail'"
        ),
        "the branch is ",
    ),
    "a parameter without default": (
        lambda s, _: s["root"]["inputDefinitions"]["parameters"]["gate"].pop("defaultValue"),
        "the parameter gate has no default",
    ),
    "a parameter less": (
        lambda s, _: rename(s["root"]["inputDefinitions"]["parameters"], "gate", "gates"),
        "the parameter gate is missing",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN_PROMISES)
def test_a_broken_promise_is_seen(compiled, mistake):
    plant, says = BROKEN_PROMISES[mistake]
    documents = compiled("laptop", "l4")
    plant(*documents)
    assert [problem for problem in find_broken_promises(documents) if says in problem]
