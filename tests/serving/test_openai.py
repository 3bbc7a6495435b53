"""The OpenAI API of a real server with a tiny model, asked by OpenAI's own client and by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from serving.generation import Generator
from serving.openai import openai_router
from serving.release import Release, read_release
from serving.settings import read_settings
from tests.serving.conftest import MODEL, Running
from tests.serving.test_generation import ScriptedEngine
from tests.serving.tiny import CONTEXT

QUESTION = [{"role": "user", "content": "How does a heat pump work?"}]


@pytest.fixture(scope="module", params=["/v1", "/openai/v1"])
def client(request: pytest.FixtureRequest, server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + request.param, api_key="none", max_retries=0) as client:
        yield client


def chat(server: Running, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 20, "temperature": 0} | fields
    return httpx.post(server.url + "/v1/chat/completions", json=body, timeout=30)


def events(server: Running, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; [DONE] must be the last, and is left out."""
    lines = [line for line in chat(server, stream=True, **fields).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_unmodified_client_gets_the_same_with_and_without_stream(client: openai.OpenAI, release: Release) -> None:
    asked: Any = {"model": MODEL, "messages": QUESTION, "max_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "length"
    assert whole.system_fingerprint == release.digest
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    without = list(client.chat.completions.create(**asked, stream=True))
    assert not any("usage" in chunk.model_fields_set for chunk in without)
    assert whole.usage and whole.usage.completion_tokens == 20


def test_text_completion_takes_the_prompt_as_it_is(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="A heat pump", max_tokens=12, temperature=0)
    chunks = client.completions.create(model=MODEL, prompt="A heat pump", max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    reply = client.completions.create(
        model=MODEL, prompt="A heat pump", max_tokens=12, temperature=0, extra_body={"return_token_ids": True}
    ).model_dump()
    again = client.completions.create(model=MODEL, prompt=reply["prompt_token_ids"], max_tokens=12, temperature=0)
    assert again.choices[0].text == whole.choices[0].text


def test_models(client: openai.OpenAI, release: Release) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).model_dump()["release"] == release.digest
    with pytest.raises(openai.NotFoundError, match="the model 'gpt' does not exist here"):
        client.models.retrieve("gpt")


def test_token_ids_are_returned_on_request(server: Running) -> None:
    reply = chat(server, return_token_ids=True).json()
    token_ids = reply["choices"][0]["token_ids"]
    assert len(token_ids) == reply["usage"]["completion_tokens"] == 20
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]
    streamed = events(server, return_token_ids=True)
    assert streamed[0]["prompt_token_ids"] == reply["prompt_token_ids"]
    assert [token for event in streamed for token in event["choices"][0].get("token_ids", [])] == token_ids
    assert "token_ids" not in chat(server).json()["choices"][0]


def test_company_does_not_change_an_answer(server: Running) -> None:
    questions = [[{"role": "user", "content": f"Question {index}"}] for index in range(8)]

    def ask(messages: list[dict[str, str]]) -> list[int]:
        return chat(server, messages=messages, return_token_ids=True).json()["choices"][0]["token_ids"]

    alone = [ask(messages) for messages in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, questions)) == alone
    assert len({tuple(token_ids) for token_ids in alone}) > 1


def test_stop_strings_end_an_answer_before_them(server: Running) -> None:
    text = chat(server).json()["choices"][0]["message"]["content"]
    middle = text[len(text) // 2 :][:3]
    for stop in (middle, ["never said", middle]):
        reply = chat(server, stop=stop).json()["choices"][0]
        assert reply["finish_reason"] == "stop"
        assert reply["message"]["content"] == text[: text.index(middle)]
    streamed = events(server, stop=middle)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in streamed) == text[: text.index(middle)]


def test_a_conversation_with_parts_and_a_developer(server: Running) -> None:
    plain = [{"role": "system", "content": "Be brief."}, *QUESTION]
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        *QUESTION,
    ]
    prompts = [
        chat(server, messages=messages, return_token_ids=True).json()["prompt_token_ids"] for messages in (plain, parts)
    ]
    assert prompts[0] == prompts[1]


def test_a_seed_repeats_an_answer(server: Running) -> None:
    drawn = [
        chat(server, temperature=1.5, seed=seed, top_p=0.9).json()["choices"][0]["message"] for seed in (1, 1, 2, -1)
    ]
    assert drawn[0] == drawn[1] and len({message["content"] for message in drawn}) == 3


def test_what_changes_nothing_is_taken(server: Running) -> None:
    neutral = {"n": 1, "frequency_penalty": 0.0, "logprobs": False, "tools": [], "user": "me", "metadata": {"a": "b"}}
    assert chat(server, **neutral, response_format={"type": "text"}, stop=None, seed=None).status_code == 200
    body = {"messages": QUESTION, "max_completion_tokens": 3}
    reply = httpx.post(server.url + "/v1/chat/completions", json=body).json()
    assert reply["usage"]["completion_tokens"] == 3 and reply["model"] == MODEL


def test_an_answer_can_be_sent_back_as_the_client_shows_it(fronted: Running) -> None:
    with openai.OpenAI(base_url=fronted.url + "/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": MODEL, "max_tokens": 5, "temperature": 0}
        turn = client.chat.completions.create(messages=QUESTION, **asked).choices[0].message  # type: ignore[call-overload]
        more = {"role": "user", "content": "And then?"}
        echoed = client.chat.completions.create(messages=[*QUESTION, turn.model_dump(), more], **asked)
        plain = {"role": "assistant", "content": turn.content}
        expected = client.chat.completions.create(messages=[*QUESTION, plain, more], **asked)
    assert set(turn.model_dump()) > {"refusal", "annotations", "audio", "function_call", "tool_calls"}
    assert echoed.choices[0].message == expected.choices[0].message
    assert echoed.usage == expected.usage
    for field, empty in [("tool_calls", []), ("annotations", []), ("refusal", "")]:
        assert chat(fronted, messages=[*QUESTION, plain | {field: empty}, more]).status_code == 200
    for field, full in [("tool_calls", [{"id": "1"}]), ("refusal", "No."), ("annotations", 0)]:
        refused = chat(fronted, messages=[*QUESTION, plain | {field: full}, more])
        assert refused.status_code == 400 and field in refused.json()["error"]["message"]


def test_a_model_whose_engine_has_failed_is_not_ready(releases: dict[str, Path]) -> None:
    engine = ScriptedEngine()
    directory = releases["openvino"]
    generator = Generator(MODEL, directory, read_release(directory), engine, read_settings({}))
    app = FastAPI()
    app.include_router(openai_router(generator))

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.get(f"/v1/models/{MODEL}")).status_code

    assert asyncio.run(ask()) == 200
    engine.failure = "out of memory"
    assert asyncio.run(ask()) == 503


def test_zero_is_not_false(server: Running) -> None:
    """`logprobs: 0` asks for the chosen token's; it is refused and not ignored."""
    for route, body in (("completions", {"prompt": "x"}), ("chat/completions", {"messages": QUESTION})):
        for field, value in (("logprobs", 0), ("n", True), ("echo", 0), ("top_logprobs", False)):
            reply = httpx.post(f"{server.url}/v1/{route}", json=body | {"max_tokens": 1, field: value})
            assert reply.status_code == 400, (route, field)
            assert reply.json()["error"]["message"] == f"{field} is not supported with this value; leave it out"


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "gpt-5"}, 404, "model", "does not exist here"),
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"messages": "hi"}, 400, "messages", "valid list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, 400, "messages", "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", "'text'"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 10_000}, 400, "max_tokens", "ask for at most"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 400, None, "differ"),
        ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, 400, "temperature", "valid number"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"stop": ["a"] * 5}, 400, "stop", "at most 4"),
        ({"stop": ""}, 400, "stop", "at least 1 character"),
        ({"n": 2}, 400, None, "n is not supported with this value; leave it out"),
        ({"tools": [{"type": "function"}]}, 400, None, "tools is not supported"),
        ({"logprobs": True}, 400, None, "logprobs is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, None, "response_format is not supported"),
        ({"stream_options": {"include_usage": True}}, 400, None, "stream_options needs stream"),
        ({"colour": "green"}, 400, "colour", "is not a known field; leave it out"),
        ({"messages": [{"role": "user", "content": "warm " * 300}]}, 400, "messages", "shorten it"),
        ({"messages": [QUESTION[0] | {"name": "Ann"}]}, 400, "messages", "messages.0.name: is not supported"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages", "valid string"),
    ],
)
def test_refusals_are_in_words(
    server: Running, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 5} | fields
    reply = httpx.post(server.url + "/v1/chat/completions", content=json.dumps(body), headers=JSON)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert words in error["message"] and error["param"] == param
    assert error["type"] in ("invalid_request_error", "not_found_error")


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b'{"prompt": NaN}',
        b"\xff\xfe",
        b"[" * 15_000,
        b'{"messages": {"a": 1}}',
    ],
)
def test_bodies_that_are_no_request(server: Running, path: str, content: bytes) -> None:
    reply = httpx.post(server.url + path, content=content, headers=JSON)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["message"]


def test_the_context_bounds_prompt_and_answer(server: Running) -> None:
    reply = chat(server, return_token_ids=True, max_tokens=1).json()
    room = CONTEXT - reply["usage"]["prompt_tokens"]
    assert chat(server, max_tokens=room).status_code == 200
    refused = chat(server, max_tokens=room + 1).json()["error"]
    assert refused["code"] == "context_length_exceeded" and f"at most {room}" in refused["message"]
    # Without max_tokens an answer gets what room there is.
    unbounded = httpx.post(server.url + "/v1/chat/completions", json={"messages": QUESTION, "temperature": 0})
    assert unbounded.json()["usage"]["completion_tokens"] <= room


def test_token_ids_outside_the_vocabulary(server: Running) -> None:
    for prompt, words in (([5, 100_000], "token id 100000"), ([-1], "token id -1"), ([], "prompt is empty")):
        reply = httpx.post(server.url + "/v1/completions", json={"prompt": prompt})
        assert reply.status_code == 400 and words in reply.json()["error"]["message"]
