"""What every request to a server meets: headers, limits, metrics, logs, cancellation, the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.engine import open_engine
from serving.release import Release
from tests.ports import free_port
from tests.serving.conftest import MODEL, Running, StartServer, front_before
from tests.serving.engine.fake_vllm import FakeVllm, running
from tests.serving.tiny import CONTEXT

QUESTION = {"messages": [{"role": "user", "content": "A question nobody may read in a log"}], "temperature": 0}


def metrics(server: Running) -> dict[tuple[str, ...], float]:
    """(sample name, label values in order of their names) -> value."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
        for sample in family.samples
    }


def grown(before: dict[tuple[str, ...], float], after: dict[tuple[str, ...], float], *key: str) -> float:
    return after.get(key, 0) - before.get(key, 0)


def wait_for(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_health(server: Running, release: Release) -> None:
    reply = httpx.get(server.url + "/health")
    assert reply.json() == {"status": "ok", "release": release.digest, "model": MODEL}
    assert httpx.head(server.url + "/health").status_code == 200


def test_generate(server: Running, release: Release) -> None:
    reply = httpx.post(server.url + "/generate", json={"prompt": "Why?", "max_tokens": 5, "temperature": 0})
    body = reply.json()
    assert set(body) == {"text", "release", "prompt_tokens", "completion_tokens", "finish_reason"}
    assert (body["release"], body["completion_tokens"], body["finish_reason"]) == (release.digest, 5, "length")
    messages = [{"role": "user", "content": "Why?"}]
    same = httpx.post(server.url + "/generate", json={"messages": messages, "max_tokens": 5, "temperature": 0})
    assert same.json() == body
    for bad, words in [
        ({}, "give either prompt or messages"),
        ({"prompt": "a", "messages": messages}, "give either prompt or messages"),
        ({"prompt": ""}, "at least 1 character"),
        ({"prompt": "a", "stream": True}, "stream: is not a known field"),
    ]:
        refused = httpx.post(server.url + "/generate", json=bad)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"]
    form = httpx.post(server.url + "/generate", data={"prompt": "a"})
    assert form.status_code == 400 and "Content-Type: application/json" in form.json()["error"]["message"]


def test_every_reply_names_release_and_request(server: Running, release: Release) -> None:
    replies = [
        httpx.get(server.url + "/health"),
        httpx.get(server.url + "/"),
        httpx.get(server.url + "/metrics"),
        httpx.get(server.url + "/nothing"),
        httpx.put(server.url + "/generate"),
        httpx.post(server.url + "/generate", content=b"x" * 30_000),
        httpx.post(server.url + "/v2/repository/models/x/load"),
        httpx.post(server.url + "/v1/models/other:predict", json={"instances": ["x"]}),
    ]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 404, 405, 413, 403, 404]
    assert {reply.headers["x-slipway-release"] for reply in replies} == {release.digest}
    assert all(re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"]) for reply in replies)


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2:3_4", True), ("a b", False), ("x" * 129, False), ("é", False)])
def test_a_request_id_is_honoured(entrance: Running, given: str, kept: bool) -> None:
    headers = {"X-Request-Id": given.encode()}
    assert (httpx.get(entrance.url + "/health", headers=headers).headers["x-request-id"] == given) is kept


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/generate"),
        ("DELETE", "/health"),
        ("POST", "/"),
        ("GET", "/v1/chat/completions"),
        ("PUT", "/openai/v1/completions"),
        ("POST", "/v1/models"),
        ("PATCH", f"/v1/models/{MODEL}"),
        ("GET", f"/v1/models/{MODEL}:predict"),
        ("GET", f"/v2/models/{MODEL}/infer"),
        ("POST", "/v2/health/ready"),
        ("POST", "/metrics"),
        ("POST", "/page/chat.js"),
    ],
)
def test_an_unsupported_method_is_405(server: Running, method: str, path: str) -> None:
    reply = httpx.request(method, server.url + path)
    assert reply.status_code == 405 and reply.headers["allow"]
    assert reply.json()["error"]


def test_a_long_body_is_refused_whether_or_not_it_says_its_length(server: Running) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 1000

    for path in ("/generate", "/v1/chat/completions", f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"):
        for content in (b" " * 20_001, chunks()):
            reply = httpx.post(server.url + path, content=content, headers={"Content-Type": "application/json"})
            assert reply.status_code == 413, path
            assert "longer than 20000 bytes" in json.dumps(reply.json())


def test_metrics_count_what_happened(server: Running, release: Release) -> None:
    before = metrics(server)
    body = {"prompt": "How warm?", "max_tokens": 7, "temperature": 0}
    prompt_tokens = httpx.post(server.url + "/generate", json=body).json()["prompt_tokens"]
    httpx.get(server.url + "/no/such/path")
    after = metrics(server)
    assert grown(before, after, "slipway_requests_total", "POST", "/generate", "200") == 1
    assert grown(before, after, "slipway_requests_total", "GET", "unmatched", "404") == 1
    assert grown(before, after, "slipway_prompt_tokens_total") == prompt_tokens
    assert grown(before, after, "slipway_completion_tokens_total") == 7
    assert grown(before, after, "slipway_time_to_first_token_seconds_count") == 1
    assert grown(before, after, "slipway_time_per_output_token_seconds_count") == 1
    assert grown(before, after, "slipway_answers_total", "length") == 1
    assert after["slipway_requests_running",] == after["slipway_queue_depth",] == 0
    assert after["slipway_release_info", MODEL, release.digest] == 1


def test_log_lines_are_json_and_hold_no_prompt(server: Running, release: Release) -> None:
    httpx.post(server.url + "/v1/chat/completions", json=QUESTION | {"max_tokens": 2}, headers={"X-Request-Id": "look"})
    httpx.post(server.url + "/v1/chat/completions", json=QUESTION | {"max_tokens": -2})
    text = server.log.read_text()
    assert "nobody may read" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "look" and line["logger"] == "serving.access"]
    assert (line["route"], line["status"], line["release"]) == ("/v1/chat/completions", 200, release.digest)


def test_routes_are_not_described(server: Running) -> None:
    for path in ("/openapi.json", "/docs", "/redoc"):
        assert httpx.get(server.url + path).status_code == 404
        assert httpx.put(server.url + path).status_code == 404


def test_other_peoples_pages_may_not_ask(entrance: Running, release: Release) -> None:
    """DNS rebinding gives our address another name; a form or a script of another origin names itself."""
    ours = entrance.url.removeprefix("http://")
    body = {"prompt": "Why?", "max_tokens": 1}
    for headers, status in [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Origin": f"http://{ours}"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": f"evil.example:{ours.rpartition(':')[2]}", "Origin": "http://evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ]:
        reply = httpx.post(entrance.url + "/generate", json=body, headers=headers)
        assert reply.status_code == status, (headers, reply.text)
        assert reply.headers["x-slipway-release"] == release.digest
    for path in (f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"):
        reply = httpx.post(entrance.url + path, json={"instances": ["x"]}, headers={"Origin": "null"})
        assert reply.status_code == 403 and "another origin" in reply.json()["error"]


@contextmanager
def open_stream(server: Running) -> Iterator[Iterator[str]]:
    """A stream of the endless model after its first event."""
    body = QUESTION | {"stream": True, "max_tokens": 15_000}
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=30) as reply:
        assert reply.status_code == 200
        lines = reply.iter_lines()
        next(lines)
        yield lines


def idle(server: Running) -> bool:
    now = metrics(server)
    return now["slipway_requests_running",] == now["slipway_queue_depth",] == 0


def test_a_stream_that_is_left_frees_its_place(endless_server: Running) -> None:
    before = metrics(endless_server)
    with open_stream(endless_server):
        assert metrics(endless_server)["slipway_requests_running",] == 1
    wait_for(lambda: idle(endless_server))
    after = metrics(endless_server)
    assert grown(before, after, "slipway_answers_total", "cancelled") == 1
    assert grown(before, after, "slipway_completion_tokens_total") < 15_000
    assert httpx.post(endless_server.url + "/generate", json={"prompt": "x", "max_tokens": 3}).status_code == 200


LONG = {"max_tokens": 15_000}
LONG_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": QUESTION | LONG,
    "/generate": QUESTION | LONG,
    f"/v1/models/{MODEL}:predict": {"instances": ["x"], "parameters": LONG},
    f"/v2/models/{MODEL}/infer": {
        "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["x"]}],
        "parameters": LONG,
    },
}


@pytest.mark.parametrize("path", LONG_BODIES)
def test_a_client_that_does_not_wait_frees_its_place(endless_server: Running, path: str) -> None:
    before = metrics(endless_server)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(endless_server.url + path, json=LONG_BODIES[path], timeout=0.5)
    wait_for(lambda: idle(endless_server))
    after = metrics(endless_server)
    assert grown(before, after, "slipway_answers_total", "cancelled") == 1
    assert sum(grown(before, after, *key) for key in after if key[-1] == "499" and key[0].endswith("_total")) == 1


def test_a_client_of_the_front_that_does_not_wait_frees_its_place(endless_server: Running, tmp_path: Path) -> None:
    with front_before(endless_server, tmp_path) as front:
        for path, body in LONG_BODIES.items():
            before = metrics(endless_server)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(front.url + path, json=body, timeout=0.5)
            wait_for(lambda: idle(endless_server))
            assert grown(before, metrics(endless_server), "slipway_answers_total", "cancelled") == 1


def test_a_batch_that_never_finds_room_is_refused(endless_server: Running) -> None:
    """One runs and one waits: three would be told to try again later, for ever."""
    body = {"instances": ["x"] * 3, "parameters": {"max_tokens": 2}}
    reply = httpx.post(f"{endless_server.url}/v1/models/{MODEL}:predict", json=body)
    assert reply.status_code == 400 and "1 to 2 prompts, not 3" in reply.json()["error"]
    body["instances"] = ["x"] * 2
    assert httpx.post(f"{endless_server.url}/v1/models/{MODEL}:predict", json=body).status_code == 200


def test_a_full_queue_is_429_with_retry_after(endless_server: Running) -> None:
    with open_stream(endless_server):
        body = QUESTION | {"max_tokens": 2}
        waiting = threading.Thread(
            target=lambda: httpx.post(endless_server.url + "/v1/chat/completions", json=body, timeout=30)
        )
        waiting.start()
        wait_for(lambda: metrics(endless_server)["slipway_queue_depth",] == 1)
        for stream in (False, True):
            reply = httpx.post(endless_server.url + "/v1/chat/completions", json=body | {"stream": stream})
            assert reply.status_code == 429
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.json()["error"]["code"] == "rate_limit_exceeded"
        kserve = httpx.post(f"{endless_server.url}/v1/models/{MODEL}:predict", json={"instances": ["x"]})
        assert kserve.status_code == 429 and isinstance(kserve.json()["error"], str)
        assert httpx.get(endless_server.url + "/health").status_code == 200
    waiting.join()
    wait_for(lambda: idle(endless_server))


def test_sigterm_lets_streams_finish(start_server: StartServer) -> None:
    server = start_server("endless", SLIPWAY_MAX_OUTPUT_TOKENS="16000")
    body = QUESTION | {"stream": True, "max_tokens": 600}
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=30) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.process.terminate()
        wait_for(lambda: not accepts(server))
        text = list(lines)
    assert text[-2:] == ["data: [DONE]", ""]
    assert server.process.wait(20) == 0


def accepts(server: Running) -> bool:
    try:
        httpx.get(server.url + "/health")
    except httpx.TransportError:  # one that was accepted before the socket closed may also be reset
        return False
    return True


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "--model", MODEL, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def test_a_port_in_use_is_told_before_anything_is_loaded(server: Running, releases: dict[str, Path]) -> None:
    port = server.url.rpartition(":")[2]
    result = run("--release", str(releases["openvino"]), "--port", port)
    assert result.returncode == 1
    assert result.stderr.startswith(f"serving: cannot listen on 127.0.0.1:{port}")


def test_a_changed_release_is_not_served(releases: dict[str, Path], tmp_path: Path) -> None:
    for file in releases["openvino"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "system_prompt.txt").write_text("Something else.")
    result = run("--release", str(tmp_path), "--port", str(free_port()))
    assert result.returncode == 1 and "system_prompt.txt has sha256" in result.stderr


def test_a_bad_setting_is_wrong_usage(tmp_path: Path) -> None:
    result = run("--release", str(tmp_path), SLIPWAY_MAX_RUNNING="many")
    assert result.returncode == 2
    assert result.stderr.startswith("serving: SLIPWAY_MAX_RUNNING = 'many': ")


def test_the_fallback_engine_behind_the_same_routes(start_server: StartServer) -> None:
    server = start_server("transformers")
    body = QUESTION | {"max_tokens": 6, "return_token_ids": True}
    whole = httpx.post(server.url + "/v1/chat/completions", json=body).json()
    assert len(whole["choices"][0]["token_ids"]) == 6
    assert server.stop() == 0


def test_vllm_behind_the_same_routes(start_server: StartServer, releases: dict[str, Path]) -> None:
    engine = open_engine(releases["vllm"])
    fake = FakeVllm(engine, CONTEXT)
    with running(fake) as url:
        server = start_server("vllm", SLIPWAY_ENGINE_URL=url)
        body = QUESTION | {"max_tokens": 6, "return_token_ids": True}
        whole = httpx.post(server.url + "/v1/chat/completions", json=body).json()
        prompt = whole["prompt_token_ids"]
        assert whole["choices"][0]["token_ids"] == engine.greedy([prompt], 6)[0]
        fake.status = 500
        assert httpx.post(server.url + "/v1/chat/completions", json=body).status_code == 503
        fake.healthy = False
        until = time.monotonic() + 20
        while httpx.get(server.url + "/health").status_code == 200 and time.monotonic() < until:
            time.sleep(0.2)
        sick = httpx.get(server.url + "/health")
        assert sick.status_code == 503 and "vLLM" in sick.text
        assert server.stop() == 0
    engine.close()


@pytest.mark.parametrize(
    ("engine", "environment", "words"),
    [
        ("vllm", {}, "the release is for vllm; SLIPWAY_ENGINE_URL must name it"),
        ("openvino", {"SLIPWAY_ENGINE_URL": "http://127.0.0.1:9"}, "the release is for engine openvino; leave it out"),
    ],
)
def test_a_vllm_is_named_exactly_where_one_is_needed(releases: dict[str, Path], engine, environment, words) -> None:
    result = run("--release", str(releases[engine]), "--port", str(free_port()), **environment)
    assert result.returncode == 1 and words in result.stderr
