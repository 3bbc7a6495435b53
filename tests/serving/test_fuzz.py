"""Random requests, half of them nearly right: none may be the server's fault, nor the front's."""

from __future__ import annotations

import http.client
import json
import random
from typing import Any

import httpx
import pytest

from tests.serving.conftest import MODEL, Running

MESSAGE = {"role": "user", "content": "Why?"}
TENSOR = {"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["Why?"]}
ROUTES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "Why?", "max_tokens": 1, "temperature": 0.5, "top_p": 1, "seed": 1, "stop": ["a"]},
    "/v1/completions": {"model": MODEL, "prompt": "Why?", "max_tokens": 1, "stream": False, "return_token_ids": True},
    "/v1/chat/completions": {"model": MODEL, "messages": [MESSAGE], "max_tokens": 1, "stream": True, "n": 1},
    f"/v1/models/{MODEL}:predict": {"instances": ["Why?", {"messages": [MESSAGE]}], "parameters": {"max_tokens": 1}},
    f"/v2/models/{MODEL}/infer": {"id": "1", "inputs": [TENSOR], "parameters": {"max_tokens": 1}, "outputs": []},
}
ODD: list[Any] = [
    None, True, 0, -1, 1, 2**70, 1e308, 0.5, 1e-320, 1e-50, 1e-42, "", "x",
    "\x00", "\ud800", "😀" * 50, "<|im_end|>", [], {}, [None], [[]],
    {"a": 1}, ["x", 5], [2**40], {"type": "text"}, {"role": "user"}, [{"role": "user", "content": []}], "\udfff" * 3,
]  # fmt: skip


def twist(draw: random.Random, value: Any) -> Any:
    """The value with one part replaced, left out, or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        rest = {key: item for key, item in value.items() if key != name}
        match draw.randrange(6):
            case 0:
                return rest
            case 1:
                return value | {draw.choice(["extra", "", "tools", "data", "specversion"]): draw.choice(ODD)}
            case _:
                return rest | {name: twist(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.7:
        return draw.choice([value * 2, [twist(draw, item) for item in value], value[:-1]])
    return draw.choice(ODD)


@pytest.mark.parametrize("path", ROUTES)
def test_no_request_is_the_servers_fault(entrance: Running, path: str) -> None:
    draw = random.Random(path)
    seen: dict[int, int] = {}
    with httpx.Client(timeout=30) as client:
        for _ in range(250):
            body = ROUTES[path]
            for _ in range(draw.choice([0, 1, 1, 2, 4])):
                body = twist(draw, body)
            reply = client.post(
                entrance.url + path, content=json.dumps(body), headers={"Content-Type": "application/json"}
            )
            assert reply.status_code in (200, 400, 404), (body, reply.text)
            if reply.status_code != 200:
                assert reply.json()["error"], body
            seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
    assert seen[200] > 20 and seen[400] > 20


@pytest.mark.parametrize("value", [1e-320, 1e-50, 1e-42, 1e-5])
def test_choice_from_next_to_nothing_is_greedy(entrance: Running, value: float) -> None:
    def text(**fields: float) -> str:
        reply = httpx.post(entrance.url + "/generate", json={"prompt": "Why?", "max_tokens": 8, "seed": 1, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()["text"]

    greedy = text(temperature=0)
    assert text(temperature=value) == greedy
    assert text(temperature=1, top_p=value) == greedy


def ask(url: str, method: str, target: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """One request as it is written here: httpx would put the path in order."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_no_path_or_header_is_the_servers_fault(entrance: Running) -> None:
    draw = random.Random(5)
    parts = ["/", "//", "..", ".", "%2e", "%2F", "%00", "%ff", "%zz", "|", "~", "é".encode().hex(), "v1", "models", ":",
             "?", "&", "x=1", "#", "{", "[", "]", "@", ";", "\\", "^", "`", '"', "<", "%C3%A9", "a" * 300]  # fmt: skip
    values = [
        b"\xe9",
        "Zo\u00eb \u96fb\u6c17".encode(),
        b"\xff\xfe",
        b"",
        b"a,b",
        b"text/html;charset=\xe9",
        b"0",
        b"\t",
    ]
    names = [b"X-Name", b"Accept", b"Content-Type", b"X-Request-Id", b"Cookie", b"Authorization", b"Connection", b"Te"]
    for _ in range(250):
        target = "/" + "".join(draw.choices(parts, k=draw.randrange(6)))
        headers = [(draw.choice(names), draw.choice(values)) for _ in range(draw.randrange(4))]
        status, body = ask(entrance.url, draw.choice(["GET", "HEAD", "OPTIONS", "DELETE"]), target, headers)
        assert status < 500, (target, headers, body)
