"""Only a checkpoint whose every byte is as it was written is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.finetune.checkpoints import is_intact, newest_intact, seal


def make(directory: Path, step: int) -> Path:
    checkpoint = directory / f"checkpoint-{step}"
    (checkpoint / "deeper").mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(bytes(range(256)) * step)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (checkpoint / "deeper" / "rng_state.pth").write_bytes(b"state")
    return checkpoint


def truncate(checkpoint: Path) -> None:
    weights = checkpoint / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def flip_a_bit(checkpoint: Path) -> None:
    weights = checkpoint / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)


DAMAGES = {
    "never sealed": lambda checkpoint: (checkpoint / "sealed.json").unlink(),
    "seal torn": lambda checkpoint: (checkpoint / "sealed.json").write_text('{"weights.safe'),
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "file gone": lambda checkpoint: (checkpoint / "deeper" / "rng_state.pth").unlink(),
    "file added": lambda checkpoint: (checkpoint / "optimizer.pt").write_bytes(b""),
}


def test_a_sealed_checkpoint_is_intact(tmp_path):
    checkpoint = make(tmp_path, 4)
    assert not is_intact(checkpoint)
    seal(checkpoint)
    assert is_intact(checkpoint)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_the_one_before_is_taken(tmp_path, capsys, damage):
    for step in (2, 4):
        seal(make(tmp_path, step))
    DAMAGES[damage](tmp_path / "checkpoint-4")
    assert newest_intact(tmp_path) == tmp_path / "checkpoint-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]
    said = json.loads(capsys.readouterr().out)
    assert (said["event"], said["checkpoint"]) == ("discarded", "checkpoint-4")


def test_the_newest_is_the_one_with_most_steps_not_the_last_name(tmp_path):
    for step in (9, 10, 2):
        seal(make(tmp_path, step))
    assert newest_intact(tmp_path) == tmp_path / "checkpoint-10"
    assert len(list(tmp_path.iterdir())) == 3, "older checkpoints stay, in case the newest is damaged later"


def test_when_all_are_torn_there_is_none(tmp_path):
    for step in (2, 4):
        make(tmp_path, step)
    assert newest_intact(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_may_be_sealed_again(tmp_path):
    checkpoint = make(tmp_path, 2)
    seal(checkpoint)
    seal(checkpoint)
    assert is_intact(checkpoint)
