"""KServe's V1 and V2 protocols of a real server with a tiny model."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serving.release import Release
from tests.serving.conftest import MODEL, Running

JSON = {"Content-Type": "application/json"}


def predict(server: Running, body: Any, model: str = MODEL) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/models/{model}:predict", json=body, timeout=30)


def infer(server: Running, body: Any, model: str = MODEL, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/{model}/infer", json=body, headers=headers, timeout=30)


def tensor(*prompts: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "prompt", "datatype": "BYTES", "shape": [len(prompts)], "data": list(prompts)} | fields


def test_v1_answers_as_generate_does(server: Running, release: Release) -> None:
    asked = {"prompt": "How warm?", "max_tokens": 9, "temperature": 0}
    single = httpx.post(server.url + "/generate", json=asked).json()
    conversation = {"messages": [{"role": "user", "content": "How warm?"}], "max_tokens": 4}
    reply = predict(
        server, {"instances": ["How warm?", conversation], "parameters": {"max_tokens": 9, "temperature": 0}}
    )
    first, second = reply.json()["predictions"]
    assert first == single
    assert second["completion_tokens"] == 4
    assert first["release"] == reply.headers["x-slipway-release"] == release.digest


def test_v2_answers_a_batch(server: Running, release: Release) -> None:
    body = {"id": "7", "inputs": [tensor("How warm?", "Why?")], "parameters": {"max_tokens": 6, "temperature": 0}}
    reply = infer(server, body).json()
    assert (reply["id"], reply["model_name"], reply["parameters"]) == ("7", MODEL, {"release": release.digest})
    outputs = {output["name"]: output for output in reply["outputs"]}
    assert outputs["completion_tokens"]["data"] == [6, 6] and outputs["text"]["shape"] == [2]
    for prompt, text in zip(["How warm?", "Why?"], outputs["text"]["data"], strict=True):
        asked = {"prompt": prompt, "max_tokens": 6, "temperature": 0}
        assert httpx.post(server.url + "/generate", json=asked).json()["text"] == text


def test_v2_gives_the_outputs_that_are_asked_for(server: Running) -> None:
    body = {"inputs": [tensor("Why?")], "parameters": {"max_tokens": 2}}
    for asked, given in [
        (["completion_tokens", "text"], {"text", "completion_tokens"}),
        (["text"], {"text"}),
        ([], {"text", "finish_reason", "completion_tokens"}),
    ]:
        reply = infer(server, body | {"outputs": [{"name": name} for name in asked]}).json()
        assert {output["name"] for output in reply["outputs"]} == given


def test_health_and_metadata(server: Running) -> None:
    get = lambda path: httpx.get(server.url + path).json()  # noqa: E731
    assert get("/v1/models")["models"] == [MODEL]
    assert get(f"/v1/models/{MODEL}")["ready"] is True
    assert get("/v2/health/live") == {"live": True}
    assert get("/v2/health/ready") == {"ready": True}
    assert get(f"/v2/models/{MODEL}/ready") == {"name": MODEL, "ready": True}
    server_metadata = get("/v2")
    assert (server_metadata["name"], server_metadata["extensions"]) == ("kserve", [])
    assert set(server_metadata) == {"name", "version", "extensions"}
    metadata = get(f"/v2/models/{MODEL}")
    assert [item["name"] for item in metadata["inputs"] + metadata["outputs"]] == [
        "prompt", "text", "finish_reason", "completion_tokens",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, 'a list "instances"'),
        ([], 'a list "instances"'),
        ("x", 'a list "instances"'),
        ({"instances": "x"}, 'a list "instances"'),
        ({"instances": []}, "1 to 64 prompts"),
        ({"instances": ["x"] * 65}, "1 to 64 prompts"),
        ({"instances": [5]}, "prompt 0"),
        ({"instances": ["x", {"max_tokens": 3}]}, "prompt 1: give either prompt or messages"),
        ({"instances": ["x"], "parameters": {"max_tokens": 0}}, "prompt 0: max_tokens"),
        ({"instances": ["x"], "parameters": {"colour": 1}}, "colour: is not a known field"),
        ({"instances": ["x"], "signature_name": "s"}, 'only be an object "parameters"'),
        ({"instances": ["warm " * 300]}, "shorten it"),
    ],
)
def test_v1_refusals(server: Running, body: Any, words: str) -> None:
    reply = predict(server, body)
    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs: Field required"),
        ({"inputs": []}, 'one "prompt"'),
        ({"inputs": [tensor("x", name="text")]}, 'one "prompt"'),
        ({"inputs": [tensor("x", datatype="FP32")]}, 'one "prompt"'),
        ({"inputs": [tensor("x", datatype="FP16")]}, "FP16"),
        ({"inputs": [tensor("x", shape=[2])]}, "shape [2] and 1 elements"),
        ({"inputs": [tensor("x", shape=[1, 1])]}, 'one "prompt"'),
        ({"inputs": [tensor(5)]}, "a prompt is a string, not int"),
        ({"inputs": [tensor("x"), tensor("y")]}, 'one "prompt"'),
        ({"inputs": [tensor("x")], "outputs": [{"name": "logits"}]}, "no outputs logits; ask for text, finish_reason"),
        ({"inputs": [tensor("x")], "parameters": {"max_tokens": "many"}}, "max_tokens"),
        ({"inputs": [tensor(["x"])]}, "a prompt is a string, not list"),
        ({"inputs": [tensor("x")], "id": "\ud800"}, "id is not a valid string"),
        ({"inputs": [tensor("\ud800")]}, "prompt 0: prompt: Input should be a valid string"),
    ],
)
def test_v2_refusals(server: Running, body: Any, words: str) -> None:
    # json.dumps writes half a surrogate pair as JSON may; httpx would not encode it.
    reply = httpx.post(f"{server.url}/v2/models/{MODEL}/infer", content=json.dumps(body), headers=JSON)
    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff", b'{"inputs": 5}', b'{"instances": {"a": 1}}'])
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
@pytest.mark.parametrize("path", [f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"])
def test_bodies_that_are_no_request(server: Running, path: str, content: bytes, content_type: str) -> None:
    reply = httpx.post(server.url + path, content=content, headers={"Content-Type": content_type})
    assert reply.status_code == 400, reply.text
    assert isinstance(reply.json()["error"], str)


GOOD = {
    f"/v1/models/{MODEL}:predict": {"instances": ["Why?"], "parameters": {"max_tokens": 1}},
    f"/v2/models/{MODEL}/infer": {"inputs": [tensor("Why?")], "parameters": {"max_tokens": 1}},
}


@pytest.mark.parametrize("path", GOOD)
def test_only_json_is_read(entrance: Running, path: str) -> None:
    """What a page of another origin may send without asking is not among it."""
    content = json.dumps(GOOD[path])
    for good in ("application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"):
        reply = httpx.post(entrance.url + path, content=content, headers={"Content-Type": good})
        assert reply.status_code == 200, (good, reply.text)
    no_json = ["text/plain", "application/octet-stream", "application/cloudevents+json", "", "application/jsonp"]
    for headers in [{}, *({"Content-Type": media_type} for media_type in no_json)]:
        reply = httpx.post(entrance.url + path, content=content, headers=headers)
        assert reply.status_code == 415, (headers, reply.text)
        assert "Content-Type: application/json" in reply.json()["error"]


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Inference-Header-Content-Length": "x"}, b"{}"),
        ({"Inference-Header-Content-Length": "2"}, b"{}"),
        ({"ce-id": "1", "ce-source": "x", "ce-type": "y", "ce-specversion": "1.0"}, b"\xff"),
        ({"ce-id": "1", "ce-specversion": "9"}, b"{}"),
        (JSON, json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "now"}).encode()),
    ],
)
@pytest.mark.parametrize("path", [f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"])
def test_other_encodings_are_refused(server: Running, path: str, headers: dict[str, str], content: bytes) -> None:
    reply = httpx.post(server.url + path, content=content, headers={**JSON, **headers})
    assert reply.status_code == 400, reply.text


def test_an_unknown_model_is_404(server: Running) -> None:
    for reply in (
        predict(server, {"instances": ["x"]}, model="other"),
        infer(server, {"inputs": [tensor("x")]}, model="other"),
        httpx.get(server.url + "/v2/models/other/ready"),
    ):
        assert reply.status_code == 404 and "other" in reply.json()["error"]


def test_models_cannot_be_loaded_or_unloaded(server: Running) -> None:
    for verb in ("load", "unload"):
        reply = httpx.post(f"{server.url}/v2/repository/models/{MODEL}/{verb}")
        assert reply.status_code == 403 and "by a rollout" in reply.json()["error"]
    assert httpx.get(f"{server.url}/v2/models/{MODEL}/ready").json()["ready"] is True


def test_what_kserve_does_not_implement_is_no_fault_of_ours(server: Running) -> None:
    explain = httpx.post(f"{server.url}/v1/models/{MODEL}:explain", json={"instances": ["x"]})
    assert explain.status_code == 400 and "no explainer" in explain.json()["error"]
    assert httpx.get(f"{server.url}/v2/models/{MODEL}/versions/1").status_code == 404
