"""vLLM's API by a release's golden answers: it stands in vLLM's place where there is no GPU. Standard library alone.

A prompt that is none of the golden ones is answered with a token that every tokenizer has. Run in the serving image, as
`python -c SOURCE` with vLLM's own arguments, of which it reads the model's directory, host, port and name.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--served-model-name", required=True)
parser.add_argument("--host", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--max-model-len", type=int, default=256)
parser.add_argument("--tensor-parallel-size", type=int, required=True)
flags, _ = parser.parse_known_args()

GOLDEN = {
    tuple(answer["prompt_token_ids"]): answer["token_ids"]
    for answer in json.loads((flags.model / "golden.json").read_bytes())
}


class Handler(BaseHTTPRequestHandler):
    """/health, /v1/models and streams of /v1/completions."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        model = {"id": flags.served_model_name, "max_model_len": flags.max_model_len}
        self.reply("application/json", json.dumps({"object": "list", "data": [model]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == flags.served_model_name and body["return_token_ids"] and body["stream"]
        tokens = GOLDEN.get(tuple(body["prompt"]), [5] * body["max_tokens"])[: body["max_tokens"]]
        ended = "stop" if tokens[-1] in body["stop_token_ids"] else "length"
        choices = [{"index": 0, "text": "", "token_ids": [token], "finish_reason": None} for token in tokens]
        choices[-1]["finish_reason"] = ended
        events = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
        self.reply("text/event-stream", "".join([*events, "data: [DONE]\n\n"]).encode())

    def reply(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


ThreadingHTTPServer((flags.host, flags.port), Handler).serve_forever()
