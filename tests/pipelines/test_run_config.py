"""A run file that is right survives the whole way; one that is wrong is refused in words that mend it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.step_config import InputError
from pipelines import run_config
from pipelines.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
VALID = """
data: {sources: [rows.jsonl]}
base: {source: scratch, scratch: {corpus: [rows.jsonl]}}
"""
PYDANTIC_JARGON = ("Input should", "Value error", "input_value", "type=", "Extra inputs")


def write(folder: Path, text: str, *, valid: str = VALID) -> Path:
    path = folder / "mine.yaml"
    path.write_text(valid + text + "\n", encoding="utf-8")
    return path


def refusal(path: Path) -> list[str]:
    """The lines that a bad run file gets, without the file's name at their beginning."""
    with pytest.raises(InputError) as caught:
        run_config.load(str(path))
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    assert not [line for line in lines for word in PYDANTIC_JARGON if word in line]
    return [line.removeprefix(str(path)) for line in lines]


def as_kfp_hands_over(value: Any) -> Any:
    """A dict parameter after its way through KFP: JSON whose numbers are all floats."""
    return json.loads(json.dumps(value), parse_int=float)


# --- what is right ---------------------------------------------------------------------------------------------


def test_a_small_file_gets_the_schemas_defaults_and_its_own_name(tmp_path):
    config = run_config.load(str(write(tmp_path, "")))
    assert config.run.name == "mine"
    assert config.training.rank == 16
    assert config.placement == "cpu"


def test_the_command_line_overrides_the_run_section(tmp_path):
    path = write(tmp_path, "run: {name: chosen, run_id: from-file}")
    config = run_config.load(str(path), {"run_id": "r-1", "force": ["all"]})
    assert (config.run.name, config.run.run_id, config.run.force) == ("chosen", "r-1", ["all"])


def test_the_command_line_overrides_the_target_and_what_only_the_other_one_reads(tmp_path):
    path = write(tmp_path, "rollout: {target: kserve, min_requests: 7, kserve: {replicas: 2}}")
    here, there = run_config.load(str(path), target="local"), run_config.load(str(path))
    assert (here.rollout.target, here.rollout.min_requests, here.rollout.kserve.replicas) == ("local", 7, 1)
    assert (there.rollout.target, there.rollout.kserve.replicas) == ("kserve", 2)
    path = write(tmp_path, "rollout: {port: 8001}")
    here, there = run_config.load(str(path)), run_config.load(str(path), target="kserve")
    assert (here.rollout.target, here.rollout.port) == ("local", 8001)
    assert (there.rollout.target, there.rollout.port) == ("kserve", 8000)


def test_a_default_that_is_written_down_is_no_mistake(tmp_path):
    text = "rollout: {target: kserve, port: 8000, strategy: replace, stages: [10, 50, 100]}"
    config = run_config.load(str(write(tmp_path, text)))
    assert run_config.RunConfig.model_validate({**config.parameters(), "placement": "cpu"}) == config


@pytest.mark.parametrize("name", sorted(path.stem for path in run_config.RUNS.glob("*.yaml")))
def test_a_bundled_file_is_found_by_its_name(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run_config.load(name) == run_config.load(f"pipelines/runs/{name}.yaml")


def test_a_path_goes_before_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("laptop").write_text(VALID, encoding="utf-8")
    assert run_config.load("laptop").base.source == "scratch"


def test_an_exponent_is_a_number_although_yaml_reads_text(tmp_path):
    assert yaml.safe_load("1e-4") == "1e-4"
    assert run_config.load(str(write(tmp_path, "training: {learning_rate: 1e-4}"))).training.learning_rate == 1e-4


FULL = """
data: {sources: [rows.jsonl], max_tokens: 128}
base: {source: scratch, scratch: {corpus: [rows.jsonl], layers: 1}, generation: {top_k: 40, temperature: 0}}
training: {target_modules: [q_proj, v_proj], epochs: 3, seed: 7}
gate: {bounds: [{metric: perplexity, at_most: 30}, {metric: nats_per_byte, at_least: 1}]}
rollout: {serving: {engine: transformers, precision: f16}, port: 8123, gap_bound: 0}
"""


def test_parameters_survive_numbers_that_become_floats(tmp_path):
    config = run_config.load(str(write(tmp_path, FULL, valid="")))
    parameters = as_kfp_hands_over(config.parameters())
    assert isinstance(parameters["rollout"]["port"], float)
    back = RunConfig.model_validate({**parameters, "placement": config.placement})
    assert back == config
    # equal is not enough: 3.0 == 3, but range(3.0) fails
    assert back.model_dump_json() == config.model_dump_json()


def test_parameters_hold_no_null_since_kfp_has_none(tmp_path):
    config = run_config.load(str(write(tmp_path, FULL, valid="")))
    assert "null" not in json.dumps(config.parameters())
    assert list(config.parameters()) == ["run", "data", "base", "training", "evaluation", "gate", "rollout"]


def test_what_may_be_null_is_null_by_default():
    """Else leaving it out, as parameters() does, would change it."""
    schema = RunConfig.model_json_schema()
    owners = [schema, *schema["$defs"].values()]
    nullable = [
        (owner["title"], name, field.get("default", "a value"))
        for owner in owners
        for name, field in owner.get("properties", {}).items()
        if {"type": "null"} in field.get("anyOf", [])
    ]
    assert nullable
    assert [found for found in nullable if found[2] is not None] == []


# --- what is wrong ---------------------------------------------------------------------------------------------

ONE_MISTAKE = [
    # unknown keys: at the top, in a section, nested, in a list's item, in a mapping of numbers
    ("trainning: {}", ": trainning: {}: unknown key (did you mean training?); allowed here: base, data,"),
    ("training: {learningrate: 0.1}", ": training.learningrate: 0.1: unknown key (did you mean learning_rate?)"),
    ("rollout: {serving: {engin: x}}", ": rollout.serving.engin: 'x': unknown key (did you mean engine?)"),
    (
        "gate: {bounds: [{metric: perplexity, max: 3}]}",
        ": gate.bounds[0].max: 3: unknown key; allowed here: at_least, ",
    ),
    ("evaluation: {7: 1}", ": evaluation.7: unknown key: it is not text"),
    # literals
    ("training: {method: qlora}", ": training.method: 'qlora': must be one of lora, full"),
    ("rollout: {target: gke}", ": rollout.target: 'gke': must be one of local, kserve"),
    ("placement: tpu", ": placement: 'tpu': must be one of cpu, l4, a100, h100x8"),
    (
        "gate: {bounds: [{metric: perplexity, at_most: 9}, {metric: bleu, at_most: 3}]}",
        ": gate.bounds[1].metric: 'bleu': must be one of perplexity, nll_per_token, nats_per_byte",
    ),
    # ranges and patterns
    ("training: {rank: -1}", ": training.rank: -1: must be a whole number, at least 1"),
    ("rollout: {port: 70000}", ": rollout.port: 70000: must be a whole number, at least 1 and at most 65535"),
    ("gate: {confidence: 1}", ": gate.confidence: 1: must be a number, above 0.5 and below 1"),
    ("gate: {margin: .nan}", ": gate.margin: nan: must be finite: a number, above 0"),
    ("rollout: {ready_seconds: .inf}", ": rollout.ready_seconds: inf: must be finite: a number, above 0"),
    ("rollout: {service: Energy_Chat}", ": rollout.service: 'Energy_Chat': must be text that matches ^[a-z]"),
    # types
    ("training: {rank: sixteen}", ": training.rank: 'sixteen': must be a whole number, at least 1"),
    ("training: {rank: 1.5}", ": training.rank: 1.5: must be a whole number, at least 1"),
    ("training: {epochs: yes}", ": training.epochs: true: must be a whole number, at least 1"),
    ("training: {target_modules: [1, 2]}", ": training.target_modules: [1, 2]: must be text or a list, each item text"),
    ("run: {force: finetune}", ": run.force: 'finetune': must be a list, each item one of all, fetch_base, "),
    ("run: {force: [finetun]}", ": run.force[0]: 'finetun': must be one of all, fetch_base, prepare_data, finetune, "),
    ("run: {name: no}", ": run.name: false: must be text; put it in quotes"),
    ("run: {name: 2026-01-31}", ": run.name: 2026-01-31: must be text; put it in quotes"),
    ("training: {seed: null}", ": training.seed: null: must be a whole number; leave the key out for its default"),
    ("training:", ": training: null: must be a mapping with the keys method, rank,"),
    ("gate: 0.02", ": gate: 0.02: must be a mapping with the keys margin,"),
    ("run: [smoke]", ": run: ['smoke']: must be a mapping with the keys name, store,"),
    # settings that do not fit each other
    (
        "rollout: {serving: {precision: f32}}",
        ": rollout.serving: engine openvino cannot serve precision f32; choose one",
    ),
    ("rollout: {stages: [50, 10, 100]}", ": rollout.stages: [50, 10, 100]: must rise from at least 1 to 100"),
    ("rollout: {stages: [10, 50]}", ": rollout.stages: [10, 50]: must rise from at least 1 to 100"),
    ("rollout: {stages: []}", ": rollout.stages: []: must be a list of at least 1, each item a whole number"),
    ("rollout: {target: kserve, port: 8001}", ": rollout.port 8001 is for target local; leave it out"),
    (
        "rollout: {strategy: replace, stages: [50, 100]}",
        ": rollout.stages [50, 100] are for strategy surge: with replace, the new release has all the traffic",
    ),
    ("rollout: {kserve: {gpus: 1}}", ": rollout: kserve (gpus) is for target kserve; set target: kserve, or leave"),
    (
        "rollout: {target: kserve, drain_seconds: 300}",
        ": rollout: kserve.grace_seconds 150 must be above drain_seconds and the 5 s that a pod serves on: above 305",
    ),
    ("rollout: {target: kserve, kserve: {image: a:latest}}", ": rollout.kserve.image: 'a:latest': must be text that"),
    (
        "rollout: {target: kserve, kserve: {node_selector: {gpu: 1}}}",
        ": rollout.kserve.node_selector: 1: must be a mapping, each value text",
    ),
    ("gate: {bounds: [{metric: perplexity}]}", ": gate.bounds[0]: bound on perplexity needs at_most or at_least"),
]


@pytest.mark.parametrize(("text", "says"), ONE_MISTAKE, ids=[text.strip() for text, _ in ONE_MISTAKE])
def test_a_mistake_gets_one_line(tmp_path, text, says):
    (line,) = refusal(write(tmp_path, text))
    assert line.startswith(says)


NESTED_MISTAKES = [
    (
        "data: {}\nbase: {source: a-folder}",
        ": data.sources: required, and missing; give a list of at least 1, each item text",
    ),
    ("data: {sources: [a]}", ": base: required, and missing; give a mapping with the keys source, revision,"),
    ("data: {sources: []}\nbase: {source: x}", ": data.sources: []: must be a list of at least 1, each item text"),
    ("data: {sources: [a, 3]}\nbase: {source: x}", ": data.sources[1]: 3: must be text; put it in quotes"),
    ("data: {sources: [a], test_share: 0.4, validation_share: 0.4}\nbase: {source: x}", ": data: test_share 0.4 + "),
    ("data: {sources: [a]}\nbase: {source: ''}", ": base.source: '': source is empty; name a model, for example hub:"),
    ("data: {sources: [a]}\nbase: {source: hub:a/b, revision: main}", ": base: revision 'main' does not pin hub:a/b;"),
    (
        "data: {sources: [a]}\nbase: {source: x, generation: {temp: 1}}",
        ": base.generation.temp: unknown key; allowed here:",
    ),
    (
        "data: {sources: [a]}\nbase: {source: x, generation: {top_p: hot}}",
        ": base.generation.top_p: 'hot': must be a number",
    ),
    (VALID.replace("corpus", "width: 30, corpus"), ": base.scratch: width 30 is not a multiple of heads 4"),
    (
        VALID.replace("sources", "max_tokens: 600, sources"),
        ": data.max_tokens 600 is more than base.scratch.context_length",
    ),
]


@pytest.mark.parametrize(("text", "says"), NESTED_MISTAKES)
def test_a_mistake_in_data_or_base_gets_one_line(tmp_path, text, says):
    (line,) = refusal(write(tmp_path, text, valid=""))
    assert line.startswith(says)


def test_every_mistake_is_told_at_once(tmp_path):
    lines = refusal(write(tmp_path, "training: {rank: 0, epochs: yes}\ngate: {margn: 1}\nplacement: tpu"))
    keys = {line.split(": ")[1] for line in lines}
    assert keys == {"training.rank", "training.epochs", "gate.margn", "placement"}
    assert len(lines) == len(keys)


def test_a_long_value_is_cut(tmp_path):
    (line,) = refusal(write(tmp_path, f"training: {{dtype: {'x' * 5000}}}"))
    assert len(line) < 200


# For every field of every schema, so that a new field's messages are checked without a line here.


def leaves(node: dict[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(keys that lead to it, JSON type) of each setting that is no section of settings itself."""
    for choice in [node, *node.get("anyOf", [])]:
        node = {**node, **SCHEMA["$defs"][choice["$ref"].rpartition("/")[2]]} if "$ref" in choice else node
    if "properties" not in node:
        yield where, node.get("type", "several")
    for name, inner in node.get("properties", {}).items():
        yield from leaves(inner, (*where, name))


SCHEMA = RunConfig.model_json_schema()
LEAVES = dict(leaves(SCHEMA))
SECTIONS = sorted({where[:-1] for where in LEAVES})


def planted(where: tuple[str, ...], value: Any) -> str:
    """A run file with one value put where `where` leads."""
    content = yaml.safe_load(VALID)
    inner = content
    for key in where[:-1]:
        inner = inner.setdefault(key, {})
    inner[where[-1]] = value
    return yaml.safe_dump(content)


@pytest.mark.parametrize("where", LEAVES, ids=".".join)
def test_a_wrong_type_anywhere_names_key_value_and_what_is_allowed(tmp_path, where):
    value = {"wrong": 1} if LEAVES[where] == "array" else [{"wrong": 1}]
    (line,) = refusal(write(tmp_path, planted(where, value), valid=""))
    assert line.startswith(f": {'.'.join(where)}: {value}: must be ")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: ".".join(section) or "top")
def test_an_unknown_key_anywhere_is_told_its_neighbours(tmp_path, section):
    (line,) = refusal(write(tmp_path, planted((*section, "surely_unknown"), 5), valid=""))
    assert line.startswith(f": {'.'.join([*section, 'surely_unknown'])}: 5: unknown key; allowed here: ")
    neighbours = {where[len(section)] for where in LEAVES if where[: len(section)] == section}
    assert neighbours <= set(line.partition("allowed here: ")[2].split(", "))


# --- files that are no run file --------------------------------------------------------------------------------

NO_RUN_FILES = {
    "empty": ("", " is empty; a run file is a mapping with the keys run, data, base,"),
    "only comments": ("# data:\n", " is empty; a run file is a mapping"),
    "list": ("- data\n- base\n", " holds ['data', 'base']; a run file is a mapping"),
    "text": ("data\n", " holds 'data'; a run file is a mapping"),
    "broken": ("data:\n  sources: [a\nbase: x\n", ":3:5: not YAML: while parsing a flow sequence, expected ',' or ']'"),
    "tab": ("data:\n\tsources: [a]\n", ":2:1: not YAML: while scanning for the next token, found character '\\t'"),
    "twice": ("data: {sources: [a], sources: [b]}\n", ":1:22: not YAML: the key sources stands there twice"),
    "two documents": ("data: 1\n---\ndata: 2\n", ":2:1: not YAML: expected a single document"),
    "object": ("data: !!python/object:os.system x\n", ":1:7: not YAML: could not determine a constructor"),
    "control character": ("data: \x01\n", ": not YAML: unacceptable character"),
}


@pytest.mark.parametrize("name", NO_RUN_FILES)
def test_what_is_no_run_file_is_refused(tmp_path, name):
    text, says = NO_RUN_FILES[name]
    (line,) = refusal(write(tmp_path, text, valid=""))
    assert line.startswith(says)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("run: {name: Zürich}".encode("latin-1"))
    (line,) = refusal(path)
    assert line.startswith(" is not UTF-8 text: invalid")


def test_a_missing_file_is_told_the_bundled_names(tmp_path):
    for name in ("labtop", str(tmp_path)):
        with pytest.raises(InputError, match=r"it is neither a path nor one of .*laptop, .*smoke"):
            run_config.load(name)


# --- texts in files of their own -------------------------------------------------------------------------------


def with_files(folder: Path, **changes: str) -> Path:
    """A run file with `changes` as further keys of data and base."""
    content = yaml.safe_load(VALID)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content[section][key] = value
    return write(folder, yaml.safe_dump(content), valid="")


def test_texts_come_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompt.txt").write_text("Answer in German: Öl, Wärme.\n", encoding="utf-8")
    Path("plain.jinja").write_text("{{ messages[0]['content'] }}\n", encoding="utf-8")
    path = with_files(tmp_path, data__system_prompt_file="prompt.txt", base__chat_template_file="plain.jinja")
    config = run_config.load(str(path))
    assert config.data.system_prompt == "Answer in German: Öl, Wärme."
    assert config.base.chat_template == "{{ messages[0]['content'] }}"
    # the text travels, not the path: a cluster has no such file
    assert "_file" not in json.dumps(config.parameters())


def test_a_text_and_its_file_exclude_each_other(tmp_path):
    path = with_files(tmp_path, data__system_prompt="a", data__system_prompt_file="b.txt")
    assert refusal(path) == [": data.system_prompt and data.system_prompt_file exclude each other; keep one"]


def test_a_text_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    where = f"relative paths start at {tmp_path}"
    for value, says in {
        "gone.txt": f"gone.txt: cannot be read: No such file or directory; {where}",
        ".": f".: cannot be read: Is a directory; {where}",
        "binary": "binary: is not UTF-8 text",
        7: "7: must be the path of a text file",
    }.items():
        path = with_files(tmp_path, base__chat_template_file=value)
        assert refusal(path) == [f": base.chat_template_file: {says}"]


def test_a_misspelt_file_key_is_told_the_right_one(tmp_path):
    (line,) = refusal(with_files(tmp_path, data__system_promt_file="a.txt"))
    assert "did you mean system_prompt_file?" in line


# --- the command -----------------------------------------------------------------------------------------------


def test_validating_loads_neither_torch_nor_kfp():
    code = """
import sys
from pipelines.cli import main
code = main(["validate", "laptop"])
print(code, sorted({"torch", "kfp", "transformers", "kserve", "numpy", "httpx"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_validating_a_bad_file_says_its_lines_and_exits_2(tmp_path, capsys):
    from pipelines.cli import main

    path = write(tmp_path, "training: {rank: 0}\nplacement: tpu")
    assert main(["validate", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
