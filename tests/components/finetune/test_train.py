"""Training teaches, and whatever interrupts it, it ends in the same bytes."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from components.finetune import train as train_module
from components.finetune.batches import Document, plan_packs
from components.finetune.config import TrainingConfig
from components.finetune.train import load_trainable, train, validation_loss
from components.finetune.trainer import PackedTrainer, Watch
from components.step_config import InputError
from components.store import tree_files
from tests.components.conftest import events
from tests.components.finetune.conftest import write_split

ROOT = Path(__file__).parents[3]
FULL = {
    "method": "full",
    "learning_rate": 0.03,
    "epochs": 2,
    "batch_tokens": 300,
    "accumulate": 2,
    "checkpoint_steps": 2,
    "threads": 1,
}
"""Twelve documents in packs of one or two: some eight optimizer steps, with a checkpoint after every other."""

RUN = FULL | {"method": "lora", "rank": 4, "dropout": 0.2}
BY_METHOD = {"lora": RUN, "full": FULL}


class Interrupted(Exception):
    """What a test stops a training with."""


@pytest.fixture
def stop_after(monkeypatch):
    """`stop_after(step)` makes trainings die right after that optimizer step; `stop_after(None)` lets them be.

    Both give the list of the optimizer steps that are made from then on.
    """

    def stop_after(step):
        made = []

        class Dies(Watch):
            def on_step_end(self, args, state, control, **rest):
                super().on_step_end(args, state, control, **rest)
                made.append(state.global_step)
                if state.global_step == step:
                    raise Interrupted

        monkeypatch.setattr(train_module, "Watch", Dies)
        return made

    return stop_after


@pytest.fixture(scope="session")
def finished(bases, examples, tmp_path_factory):
    """`finished("llama", method="full")` is what a training leaves that nobody interrupts; made once."""
    made = {}

    def finished(architecture, **changes):
        settings = BY_METHOD[changes.get("method", "lora")] | changes
        key = (architecture, *sorted(settings.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("finished")
            train(TrainingConfig(**settings), bases[architecture], examples, made[key])
        return made[key]

    return finished


# --- what a training does --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "method", "falls"), [("llama", "lora", 0.02), ("gpt2", "lora", 0.02), ("llama", "full", 0.3)]
)
def test_it_learns(architecture, method, falls, finished):
    """An adapter learns little on random embeddings that stay as they are."""
    directory = finished(architecture, method=method)
    summary = json.loads((directory / "training.json").read_text())
    with (directory / "loss.csv").open() as file:
        curve = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(curve) == summary["steps"] > 5
    assert sum(curve[-3:]) / 3 < sum(curve[:3]) / 3 - falls
    assert summary["validation_loss"] < summary["validation_loss_before"] - falls


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_train_loss_is_per_label_not_a_mean_of_the_steps_means(accumulate, bases, documents, tmp_path):
    """Four packs of one document each: two with many labels, one with three, one with none; 3 leaves a short step."""
    few = Document(documents[2].input_ids, [False] * (len(documents[2]) - 3) + [True] * 3)
    none = Document(documents[3].input_ids, [False] * len(documents[3]))
    split = [documents[0], few, none, documents[1]]
    write_split(tmp_path, "train", split)
    write_split(tmp_path, "validation", documents[4:6])
    longest = max(map(len, split))
    config = TrainingConfig(**FULL | {"accumulate": accumulate, "epochs": 1, "batch_tokens": longest})
    summary = train(config, bases["llama"], tmp_path, tmp_path / "out")
    with (tmp_path / "out" / "loss.csv").open() as file:
        curve = [float(row["loss"]) for row in csv.DictReader(file)]
    plan = plan_packs([len(each) for each in split], pack_tokens=longest, epochs=1, seed=config.seed)
    packs = [sum(sum(split[index].supervised[1:]) for index in pack) for pack in plan]
    assert len(packs) == 4 and 0 in packs and 3 in packs
    labels = [sum(packs[first : first + accumulate]) for first in range(0, 4, accumulate)]
    expected = sum(loss * count for loss, count in zip(curve, labels, strict=True)) / sum(labels)
    assert summary.train_loss == pytest.approx(expected)
    assert summary.train_loss != pytest.approx(sum(curve) / len(curve))


def test_the_summary_counts_what_was_trained(bases, documents, finished):
    summary = json.loads((finished("llama") / "training.json").read_text())
    assert summary["documents"] == 12
    assert summary["tokens"] == 2 * sum(map(len, documents))
    assert summary["supervised_tokens"] == 2 * sum(sum(document.supervised[1:]) for document in documents)
    base = AutoModelForCausalLM.from_pretrained(bases["llama"] / "model")
    assert summary["parameters"] - summary["trainable_parameters"] == base.num_parameters()


def test_the_saved_adapter_on_the_base_has_the_summary_s_validation_loss(bases, examples, finished):
    """So what is saved is what was trained, and GPT-2's transposed layers are merged the right way round."""
    for architecture in ("llama", "gpt2"):
        directory = finished(architecture)
        base = load_trainable(TrainingConfig(method="full"), bases[architecture] / "model")
        merged = PeftModel.from_pretrained(base, directory / "adapter").merge_and_unload()
        loss = validation_loss(merged, train_module.read_documents(examples / "validation.parquet"), 300)
        summary = json.loads((directory / "training.json").read_text())
        assert loss == pytest.approx(summary["validation_loss"], abs=1e-5)


def test_the_saved_full_model_has_the_summary_s_validation_loss(examples, finished):
    directory = finished("llama", method="full")
    model = load_trainable(TrainingConfig(method="full"), directory / "model")
    loss = validation_loss(model, train_module.read_documents(examples / "validation.parquet"), 300)
    assert loss == pytest.approx(json.loads((directory / "training.json").read_text())["validation_loss"], abs=1e-6)


def test_lora_adapts_the_conv1d_layers_of_gpt2_and_not_its_head(finished):
    adapter = load_file(finished("gpt2") / "adapter" / "adapter_model.safetensors")
    layers = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in adapter}
    inside = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert layers == {f"transformer.h.{block}.{layer}" for block in (0, 1) for layer in inside}
    assert all(weight.abs().max() > 0 for weight in adapter.values()), "each of them was trained"


@pytest.mark.parametrize("chosen", [["v_proj", "q_proj"], r".*\.[qv]_proj"])
def test_chosen_layers_alone_are_adapted_by_name_or_by_pattern(chosen, bases, examples, tmp_path):
    config = TrainingConfig(**RUN | {"target_modules": chosen, "max_train_tokens": 80})
    train(config, bases["llama"], examples, tmp_path)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in adapter} == {"q_proj", "v_proj"}
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert saved == (sorted(chosen) if isinstance(chosen, list) else chosen)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_only_the_result_is_left_and_no_trace_of_where_it_was_made(method, bases, finished):
    directory = finished("llama", method=method)
    names = {"lora": {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}}
    names["full"] = {"model/config.json", "model/generation_config.json", "model/model.safetensors"}
    assert tree_files(directory).keys() == names[method] | {"loss.csv", "loss.html", "training.json"}
    for path in directory.rglob("*"):
        if path.is_file():
            assert str(bases["llama"]).encode() not in path.read_bytes(), path


def test_the_full_model_keeps_the_base_s_configuration(bases, finished):
    """use_cache among it: Trainer switches it off, and a server that reads it would answer without a cache."""
    saved = json.loads((finished("llama", method="full") / "model" / "config.json").read_text())
    assert saved == json.loads((bases["llama"] / "model" / "config.json").read_text())


def test_max_train_tokens_ends_the_training_early(bases, examples, tmp_path):
    config = TrainingConfig(**RUN | {"max_train_tokens": 900})
    summary = train(config, bases["llama"], examples, tmp_path)
    assert 300 < summary.tokens <= 900


@pytest.mark.parametrize("method", ["lora", "full"])
def test_in_bfloat16_what_is_trained_stays_float32(method, bases, examples, tmp_path):
    config = TrainingConfig(**BY_METHOD[method] | {"dtype": "bfloat16", "max_train_tokens": 300})
    train(config, bases["llama"], examples, tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    assert {weight.dtype for weight in load_file(file).values()} == {torch.float32}
    frozen = load_trainable(config, bases["llama"] / "model").get_input_embeddings().weight
    assert frozen.dtype == (torch.bfloat16 if method == "lora" else torch.float32)


@pytest.mark.parametrize(("threads", "used"), [(1, 1), (0, 2)])
def test_threads_are_what_the_run_file_says_and_0_leaves_them_alone(threads, used, bases, examples, tmp_path):
    torch.set_num_threads(2)
    try:
        train(TrainingConfig(**RUN | {"threads": threads, "max_train_tokens": 80}), bases["llama"], examples, tmp_path)
        assert torch.get_num_threads() == used
    finally:
        torch.set_num_threads(1)


def test_without_a_supervised_token_there_is_nothing_to_learn(bases, documents, tmp_path):
    # the first token is supervised in each, but nothing comes before it that could predict it
    silent = [Document(each.input_ids, [True] + [False] * (len(each) - 1)) for each in documents]
    write_split(tmp_path, "train", silent)
    write_split(tmp_path, "validation", documents[:2])
    with pytest.raises(InputError, match="no training example has an answer"):
        train(TrainingConfig(**RUN), bases["llama"], tmp_path, tmp_path / "out")


def test_a_training_that_diverges_is_refused_and_leaves_no_model(bases, examples, tmp_path):
    config = TrainingConfig(**FULL | {"learning_rate": 1e30, "max_train_tokens": 900})
    with pytest.raises(InputError, match=r"the training diverged: .* to nan; lower training\.learning_rate"):
        train(config, bases["llama"], examples, tmp_path)
    assert not (tmp_path / "model").exists() and not (tmp_path / "training.json").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_example_that_the_base_cannot_read_is_refused_before_training(split, bases, documents, tmp_path):
    long = Document(documents[0].input_ids * 10, documents[0].supervised * 10)
    write_split(tmp_path, "train", documents)
    write_split(tmp_path, "validation", documents[:2])
    write_split(tmp_path, split, [long, *documents[:2]])
    with pytest.raises(InputError, match=r"the base reads 512; set data\.max_tokens to 512"):
        train(TrainingConfig(**RUN), bases["gpt2"], tmp_path, tmp_path / "out")


# --- stopped and started again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "method", "steps"), [("llama", "lora", [5]), ("gpt2", "lora", [1, 7]), ("llama", "full", [3, 5])]
)
def test_stopped_and_resumed_it_ends_in_the_same_bytes(
    architecture, method, steps, bases, examples, finished, stop_after, tmp_path, capsys
):
    """In the middle of an epoch and between checkpoints, with dropout, and two packs to a step."""
    expected = tree_files(finished(architecture, method=method))
    config = TrainingConfig(**BY_METHOD[method])
    for step in steps:
        stop_after(step)
        with pytest.raises(Interrupted):
            train(config, bases[architecture], examples, tmp_path)
    capsys.readouterr()
    made = stop_after(None)
    summary = train(config, bases[architecture], examples, tmp_path)
    assert tree_files(tmp_path) == expected
    checkpoint = steps[-1] // 2 * 2
    assert made == list(range(checkpoint + 1, summary.steps + 1)), "nothing before the checkpoint is done again"
    said = events(capsys)
    assert [event.get("checkpoint") for event in said if event["event"] == "resumed"] == (
        [f"checkpoint-{checkpoint}"] if checkpoint else []
    )
    assert said[-1]["done"] == said[-1]["total"] == summary.tokens


@pytest.mark.parametrize(("architecture", "method"), [("llama", "lora"), ("gpt2", "lora"), ("llama", "full")])
def test_computing_activations_again_changes_nothing_but_the_memory(
    architecture, method, bases, examples, finished, stop_after, tmp_path, monkeypatch
):
    """Dropout, two packs to a step and a resume included."""
    expected = tree_files(finished(architecture, method=method))
    kept = kept_bytes(monkeypatch)
    settings = BY_METHOD[method]
    train(TrainingConfig(**settings | {"max_train_tokens": 300}), bases[architecture], examples, tmp_path / "plainly")
    plainly = min(kept)
    kept.clear()
    config = TrainingConfig(**settings, gradient_checkpointing=True)
    stop_after(5)
    with pytest.raises(Interrupted):
        train(config, bases[architecture], examples, tmp_path / "again")
    stop_after(None)
    train(config, bases[architecture], examples, tmp_path / "again")
    assert max(kept) < plainly / 2
    assert tree_files(tmp_path / "again") == expected


def kept_bytes(monkeypatch):
    """A list that gets, for each forward pass of a training, the bytes that it keeps for its way back, by token."""
    kept = []

    def compute_loss(self, model, inputs, *rest, **others):
        tensors = {}

        def keep(tensor):
            tensors[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = computed(self, model, inputs, *rest, **others)
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        sizes = [tensor.untyped_storage().nbytes() for place, tensor in tensors.items() if place not in own]
        kept.append(sum(sizes) / inputs["input_ids"].numel())
        return loss

    computed = PackedTrainer.compute_loss
    monkeypatch.setattr(PackedTrainer, "compute_loss", compute_loss)
    return kept


def test_dropout_matters_here(finished):
    """Else the tests of resuming would not see random state that is lost."""
    weights = "adapter/adapter_model.safetensors"
    assert tree_files(finished("llama"))[weights] != tree_files(finished("llama", dropout=0.0))[weights]


def test_another_seed_trains_other_weights(finished):
    weights = "adapter/adapter_model.safetensors"
    assert tree_files(finished("llama"))[weights] != tree_files(finished("llama", seed=1))[weights]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "optimizer truncated": (truncate, "optimizer.pt"),
    "weights flipped": (flip_a_bit, "adapter_model.safetensors"),
    "random state gone": (Path.unlink, "rng_state.pth"),
    "never sealed": (Path.unlink, "sealed.json"),
}


@pytest.fixture(scope="session")
def stopped(bases, examples, tmp_path_factory):
    """A training that died after its fifth step, with checkpoints of the second and the fourth."""
    directory = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "on_step_end", _die_at_5)
        with pytest.raises(Interrupted):
            train(TrainingConfig(**RUN), bases["llama"], examples, directory)
    return directory


def _die_at_5(self, args, state, control, **_):
    if state.global_step == 5:
        raise Interrupted


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_discarded_and_the_one_before_resumed(
    damage, stopped, bases, examples, finished, tmp_path, capsys
):
    directory = shutil.copytree(stopped, tmp_path / "run")
    change, name = DAMAGES[damage]
    change(directory / "checkpoints" / "checkpoint-4" / name)
    train(TrainingConfig(**RUN), bases["llama"], examples, directory)
    said = [(event["event"], event["checkpoint"]) for event in events(capsys) if "checkpoint" in event]
    assert said == [("discarded", "checkpoint-4"), ("resumed", "checkpoint-2")]
    assert tree_files(directory) == tree_files(finished("llama"))


def test_a_half_written_adapter_of_a_killed_run_is_replaced(stopped, bases, examples, finished, tmp_path):
    directory = shutil.copytree(stopped, tmp_path / "run")
    (directory / "adapter").mkdir()
    (directory / "adapter" / "README.md").write_text("---\nbase_model: [half")  # PEFT reads one that it finds
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(b"half")
    train(TrainingConfig(**RUN), bases["llama"], examples, directory)
    assert tree_files(directory) == tree_files(finished("llama"))


def test_when_every_checkpoint_is_damaged_it_starts_anew(stopped, bases, examples, finished, tmp_path, capsys):
    directory = shutil.copytree(stopped, tmp_path / "run")
    for checkpoint in (directory / "checkpoints").iterdir():
        flip_a_bit(checkpoint / "optimizer.pt")
    train(TrainingConfig(**RUN), bases["llama"], examples, directory)
    assert "resumed" not in [event["event"] for event in events(capsys)]
    assert tree_files(directory) == tree_files(finished("llama"))


def test_killed_while_tidying_up_it_does_not_train_again(stopped, bases, examples, finished, tmp_path, monkeypatch):
    directory = shutil.copytree(finished("llama"), tmp_path / "run")
    shutil.copytree(stopped / "checkpoints", directory / "checkpoints")
    (directory / "checkpoints" / "checkpoint-4" / "optimizer.pt").unlink()
    monkeypatch.setattr(train_module, "PackedTrainer", None)
    summary = train(TrainingConfig(**RUN), bases["llama"], examples, directory)
    assert summary.steps > 5
    assert tree_files(directory) == tree_files(finished("llama"))


# --- killed ----------------------------------------------------------------------------------------------------


class KillableRuns:
    """Talks with killable_runs.py."""

    def __init__(self, log):
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.components.finetune.killable_runs"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),  # to a pipe that nobody empties it would write until it stands still
            text=True,
        )

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def run(self, order):
        """Events of one run, and whether it was killed; fails the test when it ended in another way."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        said = []
        while True:
            line = json.loads(self._process.stdout.readline())
            if "ended" in line:
                assert line["ended"] in (0, signal.SIGKILL), self._log.read_text()
                return said, line["ended"] == signal.SIGKILL
            said.append(line)


@pytest.fixture(scope="module")
def killable_runs(tmp_path_factory):
    runs = KillableRuns(tmp_path_factory.mktemp("killable") / "log")
    yield runs
    runs.close()


def order(directory, base, examples, method):
    return {
        "store": str(directory / "store"),
        "base": str(base),
        "examples": str(examples),
        "training": BY_METHOD[method],
        "output": str(directory / "output"),
    }


def unsealed(directory):
    return [path for path in directory.glob("store/**/checkpoint-*") if not (path / "sealed.json").is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_wherever_it_writes_and_run_again_it_ends_in_the_same_bytes(
    method, killable_runs, bases, examples, finished, tmp_path
):
    """SIGKILL just before files are changed: twice inside a checkpoint, then wherever chance has it."""
    wanted = order(tmp_path, bases["llama"], examples, method)
    for name in ("trainer_state.json", "sealed.json"):
        _, killed = killable_runs.run(wanted | {"die_at": [name, 2]})
        assert killed
        assert len(unsealed(tmp_path)) == 1, f"it died inside a checkpoint, before {name}"
    chance = random.Random(len(method))
    for _ in range(3):
        killable_runs.run(wanted | {"die_at": chance.randint(5, 60)})
    killable_runs.run(wanted | {"die_at": ["training.json", 1]})
    _, killed = killable_runs.run(wanted)
    assert not killed
    assert tree_files(tmp_path / "output") == tree_files(finished("llama", method=method))


@pytest.mark.slow
def test_killed_at_any_time_and_run_again_it_ends_in_the_same_bytes(killable_runs, bases, examples, finished, tmp_path):
    """SIGKILL from outside, whatever the process is doing; the lock dies with it."""
    wanted = order(tmp_path, bases["llama"], examples, "lora")
    chance = random.Random()
    deaths = 0
    for latest in (0.1, 1.2, 1.2, 1.2):
        _, killed = killable_runs.run(wanted | {"kill_after_seconds": chance.uniform(0.05, latest)})
        deaths += killed
    said, killed = killable_runs.run(wanted)
    assert deaths and not killed
    assert "waiting" not in [line.get("event") for line in said]
    assert tree_files(tmp_path / "output") == tree_files(finished("llama"))


def test_killed_after_the_training_it_is_not_repeated(killable_runs, bases, examples, finished, tmp_path):
    wanted = order(tmp_path, bases["llama"], examples, "lora")
    _, killed = killable_runs.run(wanted | {"die_at": ["manifest.json", 1]})
    assert killed
    said, _ = killable_runs.run(wanted)
    assert [line["event"] for line in said if "event" in line] == ["stored"]
    assert tree_files(tmp_path / "output") == tree_files(finished("llama"))
