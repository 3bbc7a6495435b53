"""A rollout and a return with the real servers of both engines, on tiny random models."""

from __future__ import annotations

import json
from types import SimpleNamespace

import httpx
import pytest

from components.rollout import deliver
from components.rollout.component import rollout
from components.rollout.local import SERVING
from components.rollout.target import RolloutFailed
from serving.engine import open_engine
from serving.release import GOLDEN_FILE, RELEASE_FILE, payload_files
from serving.tokenizer import ReleaseTokenizer
from tests.serving.tiny import make_release


def make_artifact(directory, engine, seed, spoil=False):
    """An artifact of package_release with golden answers that its own engine gave; spoiled ones are wrong."""
    release = directory / "release"
    manifest = make_release(release, engine, seed=seed)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What moves warmth?"}]
    prompt = ReleaseTokenizer(release).prompt_ids(messages)
    opened = open_engine(release)
    tokens = opened.greedy([prompt], 12)[0]
    opened.close()
    if spoil:
        tokens = [*tokens[:-1], tokens[-1] ^ 1]
    golden = {"messages": messages, "prompt_token_ids": prompt, "token_ids": tokens, "gaps": [1.0] * len(tokens)}
    (release / GOLDEN_FILE).write_text(json.dumps([golden]))
    manifest = manifest.model_copy(update={"files": payload_files(release)})
    (release / RELEASE_FILE).write_bytes(manifest.canonical())
    return directory


@pytest.fixture
def real(place):
    place.config = place.config.model_copy(update={"ready_seconds": 90, "answer_seconds": 90})
    place.commands = SERVING
    return place


def test_rollout_refusal_and_return_with_the_exact_engine(real, tmp_path):
    first = make_artifact(tmp_path / "a", "openvino", seed=0)
    second = make_artifact(tmp_path / "b", "openvino", seed=1)
    spoiled = make_artifact(tmp_path / "c", "openvino", seed=2, spoil=True)
    url = real.roll(first)["url"]
    real.roll(second)
    with pytest.raises(RolloutFailed, match=r"golden answer 1 .* is .*, expected is"):
        real.roll(spoiled)
    real.settled_on(real.digest(second))
    reply = httpx.post(f"{url}/generate", json={"prompt": "What moves warmth?", "max_tokens": 4}, timeout=30)
    assert reply.status_code == 200 and reply.json()["release"] == real.digest(second)
    deliver.back(real.store)
    real.settled_on(real.digest(first))


def test_the_face_rolls_out_with_the_fallback_engine(real, tmp_path):
    release = make_artifact(tmp_path / "a", "transformers", seed=0)
    artifacts = zip(("release", "champion", "decision"), (release, *real.verdict(release, None)), strict=True)
    rollout.python_func(
        run=real.run.model_dump(),
        rollout=real.config.model_dump(mode="json"),
        live=SimpleNamespace(path=str(tmp_path / "live")),
        **{name: SimpleNamespace(path=str(path)) for name, path in artifacts},
    )
    assert json.loads((tmp_path / "live/live.json").read_text())["digest"] == real.digest(release)
    real.settled_on(real.digest(release))
