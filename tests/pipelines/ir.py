"""A strict reader of compiled pipelines: what Kubeflow would only say when a run has begun, or never.

The YAML is parsed with the protobufs of kfp-pipeline-spec, unknown fields refused; then the graph is followed.
`find_problems` is the whole of it: documents in, sentences out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import (
    ComponentSpec,
    DagSpec,
    ParameterType,
    PipelineDeploymentConfig,
    PipelineSpec,
    PipelineTaskSpec,
    PlatformSpec,
)

_LOWER_CASE = re.compile(r"[a-z][a-z0-9-]*")
_YAML_BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false"}
"""What YAML 1.1 readers take for true or false where a name should be."""

_READ_PARAMETER = re.compile(r"inputs\.parameter_values\['([^'\"\\]+)'\]")
_NUMBER_TO_SOME = re.compile(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+|0o[0-7]+")
"""Texts that PyYAML, a reader of YAML 1.1, writes without quotes, and that the server's reader takes for numbers."""

_LITERAL = re.compile(r"'[^'\"\\]*'|-?\d+(?:\.\d+)?|true|false")
_COMPARISON = re.compile(
    r"!?\(?[PL] (?:==|!=|<|<=|>|>=) [PL]\)?(?: (?:&&|\|\|) !?\(?[PL] (?:==|!=|<|<=|>|>=) [PL]\)?)*"
)

_ANY_ARTIFACT = "system.Artifact"
_DEFAULT_KINDS = {
    "STRUCT": "struct_value",
    "LIST": "list_value",
    "STRING": "string_value",
    "BOOLEAN": "bool_value",
    "NUMBER_INTEGER": "number_value",
    "NUMBER_DOUBLE": "number_value",
}


@dataclass(frozen=True)
class Pipeline:
    """One compiled pipeline, parsed."""

    spec: PipelineSpec
    executors: PipelineDeploymentConfig
    kubernetes: dict[str, KubernetesExecutorConfig]
    """Executor name -> what only Kubernetes knows (node selectors, tolerations)."""

    def component(self, name: str) -> ComponentSpec | None:
        return self.spec.components.get(name)

    def dags(self) -> Iterator[tuple[str, ComponentSpec]]:
        """(name, component) of every component that is a graph, the root first."""
        yield "root", self.spec.root
        for name, component in self.spec.components.items():
            if component.WhichOneof("implementation") == "dag":
                yield name, component

    def steps(self) -> dict[str, PipelineTaskSpec]:
        """Task name -> task, of every task in any graph that runs a container."""
        return {
            name: task
            for _, dag in self.dags()
            for name, task in dag.dag.tasks.items()
            if self.spec.components[task.component_ref.name].executor_label
        }

    def container(self, step: str) -> PipelineDeploymentConfig.PipelineContainerSpec:
        return self.executors.executors[self.executor_of(step)].container

    def executor_of(self, step: str) -> str:
        return self.spec.components[self.steps()[step].component_ref.name].executor_label


def read_documents(text: str) -> list[Any]:
    """The YAML documents of a compiled pipeline: its definition, and what a platform adds."""
    return list(yaml.safe_load_all(text))


def kubernetes_of(platform: dict[str, Any], step: str) -> dict[str, Any]:
    """What the second document says of a step's pod."""
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]


def parse(documents: list[Any]) -> Pipeline:
    """Raises ValueError for documents that are no pipeline, fields that no message has and values of a wrong type."""
    if not 1 <= len(documents) <= 2 or not all(isinstance(document, dict) for document in documents):
        raise ValueError(f"a pipeline is one or two mappings, not {len(documents)} documents")
    try:
        spec = json_format.ParseDict(documents[0], PipelineSpec())
        executors = json_format.ParseDict(documents[0].get("deploymentSpec", {}), PipelineDeploymentConfig())
        platform = json_format.ParseDict(documents[1] if len(documents) == 2 else {}, PlatformSpec())
        kubernetes = {
            name: json_format.ParseDict(json_format.MessageToDict(config), KubernetesExecutorConfig())
            for name, config in platform.platforms["kubernetes"].deployment_spec.executors.items()
        }
    except json_format.ParseError as error:
        raise ValueError(f"not a pipeline: {error}") from error
    others = sorted(set(platform.platforms) - {"kubernetes"})
    if others:
        raise ValueError(f"nobody reads the platform {others[0]}")
    return Pipeline(spec, executors, kubernetes)


def find_problems(documents: list[Any]) -> list[str]:
    """What is wrong with a compiled pipeline, a sentence each; empty when nothing is."""
    try:
        pipeline = parse(documents)
    except ValueError as error:
        return [str(error)]
    problems = [*_check_names(pipeline), *_check_components(pipeline), *_check_recursion(pipeline)]
    problems += [*_check_texts(documents), *_check_pods(pipeline)]
    for name, component in pipeline.dags():
        problems += _check_dag(pipeline, name, component)
    return problems


# --- names and components --------------------------------------------------------------------------------------


def _check_names(pipeline: Pipeline) -> Iterator[str]:
    spec = pipeline.spec
    tasks = [task for _, component in pipeline.dags() for task in component.dag.tasks]
    for name in [spec.pipeline_info.name, *spec.components, *pipeline.executors.executors, *tasks]:
        if not _LOWER_CASE.fullmatch(name):
            yield f"the name {name!r} is not lower-case letters, digits and hyphens"
    if not spec.schema_version or not spec.sdk_version:
        yield "schemaVersion or sdkVersion is missing"
    for where, component in [("root", spec.root), *spec.components.items()]:
        for definitions in (component.input_definitions, component.output_definitions):
            for name in [*definitions.parameters, *definitions.artifacts]:
                if name.lower() in _YAML_BOOLEANS:
                    yield f"{where}: the name {name!r} is a boolean to some YAML readers"
        for name, parameter in component.input_definitions.parameters.items():
            kind, expected = parameter.default_value.WhichOneof("kind"), _type(parameter.parameter_type)
            if kind and kind != _DEFAULT_KINDS.get(expected):
                yield f"{where}: the default of {name} is a {kind}, its type {expected}"


def _check_components(pipeline: Pipeline) -> Iterator[str]:
    spec, executors = pipeline.spec, pipeline.executors.executors
    if spec.root.WhichOneof("implementation") != "dag":
        yield "the root is no graph"
    for name, component in spec.components.items():
        kind = component.WhichOneof("implementation")
        if kind is None:
            yield f"{name} has neither a graph nor an executor"
        elif kind == "executor_label" and component.executor_label not in executors:
            yield f"{name}: the executor {component.executor_label} does not exist"
    for name, executor in executors.items():
        if executor.WhichOneof("spec") not in ("container", "importer"):
            yield f"{name} is neither a container nor an importer"
        elif executor.HasField("container") and not executor.container.image:
            yield f"{name} has no image"
    labels = {component.executor_label for component in spec.components.values()}
    yield from (f"{name} is no component's executor" for name in sorted(set(executors) - labels))
    used = {task.component_ref.name for _, dag in pipeline.dags() for task in dag.dag.tasks.values()}
    yield from (f"no task uses {name}" for name in sorted(set(spec.components) - used))
    for name in sorted(set(pipeline.kubernetes) - set(executors)):
        yield f"the platform configures the executor {name}, which does not exist"


def _check_recursion(pipeline: Pipeline) -> Iterator[str]:
    contains = {
        name: {task.component_ref.name for task in component.dag.tasks.values()} for name, component in pipeline.dags()
    }
    try:
        TopologicalSorter(contains).prepare()
    except CycleError as error:
        yield f"components contain each other: {' > '.join(error.args[1])}"


def _check_texts(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _check_texts(inner, f"{where}.{key}".removeprefix("."))
    elif isinstance(value, str) and _NUMBER_TO_SOME.fullmatch(value):
        yield f"{where}: the text {value!r} is a number to some YAML readers"


def _check_pods(pipeline: Pipeline) -> Iterator[str]:
    """What Kubernetes would refuse of a pod, hours after the run began."""
    for name, config in pipeline.kubernetes.items():
        mounts = [*config.pvc_mount, *config.secret_as_volume, *config.config_map_as_volume, *config.empty_dir_mounts]
        paths = [mount.mount_path for mount in mounts]
        yield from (f"{name}: mounts {path!r}, which is no absolute path" for path in paths if not path.startswith("/"))
        yield from (f"{name}: mounts two things at {path}" for path in sorted(set(paths)) if paths.count(path) > 1)
        sources = [*config.secret_as_env, *config.config_map_as_env]
        variables = [pair.env_var for source in sources for pair in source.key_to_env]
        variables += [field.name for field in config.field_path_as_env]
        if name in pipeline.executors.executors:
            variables += [one.name for one in pipeline.executors.executors[name].container.env]
        yield from (f"{name}: sets {one} twice" for one in sorted(set(variables)) if variables.count(one) > 1)
        if config.security_context.run_as_user == 0 and config.security_context.run_as_non_root:
            yield f"{name}: must not be root, and is to run as user 0"


# --- one graph -------------------------------------------------------------------------------------------------


def _check_dag(pipeline: Pipeline, where: str, component: ComponentSpec) -> list[str]:
    problems: list[str] = []
    for name, task in component.dag.tasks.items():
        problems += (f"{where}: {name}: {problem}" for problem in _check_task(pipeline, component, task))
    order = {name: {*task.dependent_tasks, *_producers(task)} for name, task in component.dag.tasks.items()}
    try:
        TopologicalSorter(order).prepare()
    except CycleError as error:
        problems.append(f"{where}: tasks wait for each other: {' > '.join(error.args[1])}")
    problems += (f"{where}: {problem}" for problem in _check_outputs(pipeline, component.dag))
    return problems


def _producers(task: PipelineTaskSpec) -> set[str]:
    """Tasks whose outputs this one reads."""
    parameters, artifacts = task.inputs.parameters.values(), task.inputs.artifacts.values()
    read = {source.task_output_parameter.producer_task for source in parameters}
    return (read | {source.task_output_artifact.producer_task for source in artifacts}) - {""}


def _check_task(pipeline: Pipeline, parent: ComponentSpec, task: PipelineTaskSpec) -> Iterator[str]:
    component = pipeline.component(task.component_ref.name)
    if component is None:
        yield f"the component {task.component_ref.name!r} does not exist"
        return
    for other in [*task.dependent_tasks, *_producers(task)]:
        if other not in parent.dag.tasks:
            yield f"it waits for {other}, which is no task beside it"
    for producer in sorted(_producers(task) - set(task.dependent_tasks)):
        yield f"it reads from {producer} and does not wait for it"
    wanted = component.input_definitions
    for kind, declared, given in (
        ("parameter", wanted.parameters, task.inputs.parameters),
        ("artifact", wanted.artifacts, task.inputs.artifacts),
    ):
        for name, definition in declared.items():
            has_default = kind == "parameter" and definition.HasField("default_value")
            if name not in given and not definition.is_optional and not has_default:
                yield f"the {kind} {name} is required and not given"
        for name, source in given.items():
            if name not in declared:
                yield f"the {kind} {name} is given, but {task.component_ref.name} has none of that name"
                continue
            if kind == "parameter":
                expected = _type(declared[name].parameter_type)
                found = _parameter_type(pipeline, parent, source, expected)
            else:
                expected = _schema(declared[name])
                found = _artifact_type(pipeline, parent, source)
            if found != expected and (expected != _ANY_ARTIFACT or not found.startswith("system.")):
                yield f"the {kind} {name} should be {expected}, and is {found}"
    yield from _check_condition(task)
    is_exit_handler = task.trigger_policy.strategy == PipelineTaskSpec.TriggerPolicy.ALL_UPSTREAM_TASKS_COMPLETED
    if is_exit_handler and task.caching_options.enable_cache:
        yield "it is an exit handler and cached, so it runs only the first time"


def _parameter_type(pipeline: Pipeline, parent: ComponentSpec, source: Any, expected: str) -> str:
    """Type of what a task's parameter is given, or in words why there is none; a constant may fit several types."""
    kind = source.WhichOneof("kind")
    if kind == "component_input_parameter":
        declared = parent.input_definitions.parameters
        name = source.component_input_parameter
        return _type(declared[name].parameter_type) if name in declared else f"{name}, which the graph is not given"
    if kind == "task_output_parameter":
        name, producer = source.task_output_parameter.output_parameter_key, source.task_output_parameter.producer_task
        declared = _outputs(pipeline, parent.dag, producer).parameters
        return _type(declared[name].parameter_type) if name in declared else f"{name}, which {producer} does not make"
    if kind == "runtime_value":
        value = source.runtime_value.constant.WhichOneof("kind")
        return expected if value == _DEFAULT_KINDS.get(expected) else f"a {value}"
    return f"a {kind}, which this checker does not know"


def _artifact_type(pipeline: Pipeline, parent: ComponentSpec, source: Any) -> str:
    """Schema of what a task's artifact is given, or in words why there is none."""
    if source.WhichOneof("kind") == "component_input_artifact":
        declared, name = parent.input_definitions.artifacts, source.component_input_artifact
        return _schema(declared[name]) if name in declared else f"{name}, which the graph is not given"
    name, producer = source.task_output_artifact.output_artifact_key, source.task_output_artifact.producer_task
    declared = _outputs(pipeline, parent.dag, producer).artifacts
    return _schema(declared[name]) if name in declared else f"{name}, which {producer} does not make"


def _outputs(pipeline: Pipeline, dag: DagSpec, task: str) -> Any:
    """What a task of the graph declares to make; nothing when there is no such task."""
    component = pipeline.component(dag.tasks[task].component_ref.name) if task in dag.tasks else None
    return (component or ComponentSpec()).output_definitions


def _check_condition(task: PipelineTaskSpec) -> Iterator[str]:
    condition = " ".join(task.trigger_policy.condition.split())
    if not condition:
        return
    for name in _READ_PARAMETER.findall(condition):
        if name not in task.inputs.parameters:
            yield f"its condition reads {name}, which it is not given"
    shape = _LITERAL.sub("L", _READ_PARAMETER.sub("P", condition))
    if not _COMPARISON.fullmatch(shape) or shape.count("(") != shape.count(")"):
        yield f"its condition is no comparison of quote-free values: {condition}"


def _check_outputs(pipeline: Pipeline, dag: DagSpec) -> Iterator[str]:
    for name, output in dag.outputs.parameters.items():
        selectors = [output.value_from_parameter, *output.value_from_oneof.parameter_selectors]
        for selector in (one for one in selectors if one.producer_subtask):
            if selector.output_parameter_key not in _outputs(pipeline, dag, selector.producer_subtask).parameters:
                yield f"the output {name} comes from nowhere"
    for name, output in dag.outputs.artifacts.items():
        for selector in output.artifact_selectors:
            if selector.output_artifact_key not in _outputs(pipeline, dag, selector.producer_subtask).artifacts:
                yield f"the output {name} comes from nowhere"


def _type(number: int) -> str:
    return ParameterType.ParameterTypeEnum.Name(number)


def _schema(definition: Any) -> str:
    return definition.artifact_type.schema_title
