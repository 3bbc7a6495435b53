"""Golden answers over HTTP: what counts as the same, and what is said when it is not."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.rollout.golden import GoldenCheck, first_difference
from components.rollout.local import open_client
from components.rollout.target import CheckFailed

DIGEST = "sha256:" + "a" * 64
GOOD = {"prompt_token_ids": [1, 2, 3], "choices": [{"token_ids": [10, 11, 12]}]}


@pytest.fixture
def server():
    """A server whose replies a test sets: a list of (status, body, digest), the last one repeated."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            number = len(server.requests) - 1
            status, reply, digest = server.replies[min(number, len(server.replies) - 1)]
            payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            if digest:
                self.send_header("X-Slipway-Release", digest)
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.replies = [], [(200, GOOD, DIGEST)]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(server, place):
    def ask(engine="openvino", gap_bound=0.05):
        release = place.release(f"release-{engine}", engine=engine) / "release"
        golden = json.loads((release / "golden.json").read_text())[:1]
        (release / "golden.json").write_text(json.dumps(golden))
        GoldenCheck(open_client, "chat", gap_bound, 2)(f"http://127.0.0.1:{server.server_port}", DIGEST, release)

    return ask


def test_equal_answers_pass_and_the_question_is_the_golden_one(server, ask):
    ask()
    assert server.requests == [
        {
            "model": "chat",
            "messages": [{"role": "user", "content": "question 0"}],
            "max_tokens": 3,
            "temperature": 0,
            "return_token_ids": True,
        }
    ]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([10, 99, 12], "token 1 is 99, expected is 11"),
        ([10, 11], "token 2 is the end, expected is 12"),
        ([], "token 0"),
    ],
)
def test_the_exact_engine_must_give_every_token(server, ask, tokens, words):
    server.replies = [(200, GOOD | {"choices": [{"token_ids": tokens}]}, DIGEST)]
    with pytest.raises(CheckFailed, match=words):
        ask()


def test_another_engine_may_first_differ_where_the_choice_was_close(server, ask):
    server.replies = [(200, GOOD | {"choices": [{"token_ids": [10, 99, 98]}]}, DIGEST)]
    ask("transformers")  # the gap at position 1 is 0.01


def test_another_engine_may_not_differ_where_the_choice_was_clear(server, ask):
    server.replies = [(200, GOOD | {"choices": [{"token_ids": [99, 11, 12]}]}, DIGEST)]
    with pytest.raises(CheckFailed, match=r"token 0 is 99, expected is 10, where the gap is 2\.000 nats"):
        ask("transformers")


def test_an_answer_that_goes_on_beyond_the_golden_one_differs(server, ask):
    server.replies = [(200, GOOD | {"choices": [{"token_ids": [10, 11, 12, 13]}]}, DIGEST)]
    with pytest.raises(CheckFailed, match="token 3 is 13, expected is the end"):
        ask("transformers")


def test_a_replay_asks_one_prompt_after_the_other(server, place):
    release = place.release("two") / "release"
    check, url = GoldenCheck(open_client, "chat", 0.05, 2), f"http://127.0.0.1:{server.server_port}"
    server.replies = [(200, GOOD, DIGEST), (200, GOOD, DIGEST), (200, GOOD, DIGEST)]
    check.replay(url, DIGEST, release, 0)
    with pytest.raises(CheckFailed, match=r"golden answer 2 .*: its prompt differs"):
        check.replay(url, DIGEST, release, 1)
    check.replay(url, DIGEST, release, 2)
    asked = [request["messages"][0]["content"] for request in server.requests]
    assert asked == ["question 0", "question 1", "question 0"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, GOOD, "sha256:other"), "given by release sha256:other, not by"),
        ((200, GOOD | {"prompt_token_ids": [1, 9, 3]}, DIGEST), "its prompt differs from token 1 on"),
        ((200, {"choices": [{"token_ids": [1]}]}, DIGEST), "holds no token ids"),
        ((200, {"prompt_token_ids": [], "choices": []}, DIGEST), "holds no token ids"),
        ((200, b"<html>", DIGEST), "not JSON"),
        ((500, {"error": {"message": "broken"}}, DIGEST), "HTTP 500: .*broken"),
        ((404, {"error": {"message": "no such model"}}, DIGEST), "HTTP 404"),
    ],
)
def test_what_is_no_golden_answer_is_refused_in_words(server, ask, reply, words):
    server.replies = [reply]
    with pytest.raises(CheckFailed, match=words):
        ask()


def test_a_fault_between_us_and_the_server_is_no_wrong_answer(server, ask):
    between = [(500, {"message": "apiserver overloaded"}, ""), (502, b"<html>", ""), (409, {"reason": "Conflict"}, "")]
    server.replies = [*between, (200, GOOD, DIGEST)]
    ask()
    assert len(server.requests) == 4


def test_a_fault_between_us_and_the_server_that_stays_is_told(server, ask):
    server.replies = [(500, {"message": "etcd has no leader"}, "")]
    with pytest.raises(CheckFailed, match=r"HTTP 500: .*etcd has no leader"):
        ask()
    assert len(server.requests) == 5


def test_a_full_queue_is_waited_for(server, ask):
    server.replies = [(429, {}, DIGEST), (503, {}, DIGEST), (200, GOOD, DIGEST)]
    ask()
    assert len(server.requests) == 3


def test_a_release_without_golden_answers_is_refused(place):
    release = place.release("first") / "release"
    (release / "golden.json").write_text("[]")
    with pytest.raises(CheckFailed, match="has no golden answers"):
        GoldenCheck(open_client, "chat", 0.05, 1)("http://127.0.0.1:9", DIGEST, release)


def test_nobody_there_is_said(place):
    release = place.release("first") / "release"
    with pytest.raises(CheckFailed, match="ConnectError"):
        GoldenCheck(open_client, "chat", 0.05, 1)(f"http://127.0.0.1:{place.config.port}", DIGEST, release)


def test_first_difference():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1], [1, 3]) == 1
    assert first_difference([], [1]) == 0
