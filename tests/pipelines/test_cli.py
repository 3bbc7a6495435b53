"""The commands about what is served, at both targets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import pytest

from components import images
from pipelines.cli import DONE, FAILED, _parser, main

RUN_FILE = """
run: {store: %s}
data: {sources: [a.jsonl]}
base: {source: scratch, scratch: {corpus: [a.jsonl]}}
rollout: {service: chat, target: %s}
"""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """Writes a run file for a target; no cluster is at hand."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def write(target: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(RUN_FILE % (tmp_path / "store", target), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("command", [["rollout", "status"], ["serve"], ["trace"], ["chat"]], ids=" ".join)
def test_the_target_of_the_command_line_goes_before_the_run_file_s(run_file, capsys, command):
    assert main([*command, run_file("local"), "--target", "kserve"]) == FAILED
    assert "KUBECONFIG" in capsys.readouterr().err
    assert main([*command, run_file("kserve"), "--target", "local"]) == FAILED
    error = capsys.readouterr().err
    assert "chat" in error and "KUBECONFIG" not in error


def test_going_back_on_a_cluster_asks_the_cluster(run_file, capsys):
    assert main(["rollout", "back", "--run", run_file("kserve")]) == FAILED
    assert "KUBECONFIG" in capsys.readouterr().err


def test_data_that_is_not_there_is_told_with_its_setting_and_file(run_file, capsys):
    path = run_file("local")
    assert main(["run", path]) == FAILED
    assert capsys.readouterr().err.startswith(f"{path}: data.sources: a.jsonl does not exist")


def test_going_back_to_a_run_file_says_how_it_is_named(run_file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "back", "smoke"])
    assert ended.value.code == 2
    assert "`smoke` is a run file; write `--run smoke`" in capsys.readouterr().err
    assert main(["rollout", "back", "beef", "--run", run_file("local")]) == FAILED
    assert "run file" not in capsys.readouterr().err


def test_a_service_that_was_never_rolled_out_gets_a_next_step(run_file, capsys):
    assert main(["rollout", "back", "--run", run_file("local")]) == FAILED
    error = capsys.readouterr().err
    assert "`slipway run RUN` brings it" in error and "--target kserve" in error


def test_an_unknown_target_is_wrong_usage(run_file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "status", run_file("local"), "--target", "gke"])
    assert ended.value.code == 2
    assert "local, kserve" in capsys.readouterr().err.replace("'", "")


def test_the_doctor_leaves_alone_a_port_that_the_run_never_uses(run_file, capsys):
    main(["doctor", run_file("local"), "--json"])
    assert "port 8000" in capsys.readouterr().out
    main(["doctor", run_file("kserve"), "--json"])
    assert "port" not in capsys.readouterr().out


def arguments_without_help(parser: argparse.ArgumentParser, words: str = "slipway") -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from arguments_without_help(inner, f"{words} {name}")
        elif not action.help:
            yield f"{words} {action.metavar or action.dest}"


def test_every_argument_says_what_it_is():
    assert list(arguments_without_help(_parser())) == []


def test_a_run_file_after_force_is_told_where_it_belongs(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "--force", "laptop"])
    assert ended.value.code == 2
    assert "for the run file, write it first: `slipway run laptop --force`" in capsys.readouterr().err
    options = _parser().parse_args(["run", "smoke", "--force", "--force=evaluate"])
    assert (options.run_file, options.force) == ("smoke", ["all", "evaluate"])


@pytest.mark.parametrize(("image", "told"), [("slipway-python:1-cpu", True), ("registry.example/a:1-cpu", False)])
def test_a_pipeline_whose_images_no_cluster_can_pull_is_compiled_and_that_is_said(
    run_file, tmp_path, capsys, monkeypatch, image, told
):
    monkeypatch.setattr(images, "CPU", image)
    assert main(["compile", run_file("kserve"), "--output", str(tmp_path / "p.yaml"), "--json"]) == DONE
    said = capsys.readouterr()
    assert json.loads(said.out)["profile"] == "cpu"
    assert ("SLIPWAY_REGISTRY is not set" in said.err) is told


def test_following_takes_no_json(run_file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rollout", "status", run_file("local"), "--follow", "--json"])
    assert ended.value.code == 2
    assert "choose one" in capsys.readouterr().err


def test_down_ends_nothing_on_a_cluster_and_says_how(run_file, capsys):
    assert main(["down", run_file("kserve")]) == FAILED
    assert "kubectl -n slipway-serving delete" in capsys.readouterr().err


def test_down_of_a_service_that_was_never_rolled_out_does_nothing(run_file, capsys):
    assert main(["down", run_file("local"), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out) == []


def test_the_janitor_says_that_there_is_no_cluster(run_file, capsys):
    run_file("kserve")
    assert main(["rollout", "janitor"]) == FAILED
    assert "KUBECONFIG" in capsys.readouterr().err
