"""A conversation with the live model, in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx


def converse(url: str, model: str) -> None:
    """Read questions and print streamed answers until an empty line or end of input."""
    messages: list[dict[str, str]] = []
    print(f"{model} at {url}; an empty line ends the conversation")
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            return
        if not question:
            return
        asked = [*messages, {"role": "user", "content": question}]
        answer = ""
        try:
            for piece in stream_answer(url, model, asked):
                print(piece, end="", flush=True)
                answer += piece
        except httpx.HTTPError as error:
            print(f"[no answer: {error}; ask again]")
            continue
        print()
        messages = [*asked, {"role": "assistant", "content": answer}]


def stream_answer(url: str, model: str, messages: list[dict[str, str]]) -> Iterator[str]:
    """Pieces of the answer as they come. Raises httpx.HTTPError when the server cannot be reached or refuses."""
    body = {"model": model, "messages": messages, "stream": True, "max_tokens": 256}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"]:
                yield choice["delta"].get("content") or ""
