"""A server of one release that behaves as the release's behaviour.txt says; only the standard library.

good          answers as its golden answers say
slow          good, ready after a second
wrong         one token of its answers differs
never         listens and is never ready
crash         ends at once
hangs         ready, but no answer ever comes
crash_later   ready, ends with the first answer it is asked for
impostor      says that it serves another release
sick_live     answers at its own address, fails once requests come through the front
forgets       good, but its counters begin anew after three answers
uncounted     good, but its metrics cannot be read
stuck         good, but never ends an answer to anything but a golden question, nor itself while it has one
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STARTED = time.monotonic()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--release", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    manifest = json.loads((options.release / "release.json").read_text())
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    digest = "sha256:" + hashlib.sha256(canonical).hexdigest()
    behaviour = (options.release / "behaviour.txt").read_text().strip()
    golden = json.loads((options.release / "golden.json").read_text())
    if behaviour == "crash":
        sys.exit("cannot read the weights")

    running: set[int] = set()  # ids of the threads that are answering
    counted = {"answered": 0, "failed": 0, "refused": 0, "left": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, body):
            if self.command == "POST":
                counted["failed" if status >= 500 else "refused" if status >= 400 else "answered"] += 1
                if behaviour == "forgets" and counted["answered"] > 3:
                    counted["answered"] = 0
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.send_header("X-Slipway-Release", "sha256:0" if behaviour == "impostor" else digest)
            self.end_headers()
            self.wfile.write(payload)

        def metrics(self):
            lines = [f'slipway_generations_total{{outcome="{name}"}} {count}.0' for name, count in counted.items()]
            payload = "\n".join(["# TYPE slipway_generations_total counter", *lines, ""]).encode()
            self.send_response(500 if behaviour == "uncounted" else 200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def do_GET(self):
            if self.path == "/metrics":
                return self.metrics()
            loading = behaviour == "never" or (behaviour == "slow" and time.monotonic() - STARTED < 1)
            if loading:
                return self.answer(503, {"status": "loading"})
            named = "sha256:0" if behaviour == "impostor" else digest
            self.answer(200, {"status": "ok", "release": named, "model": options.model})

        def do_POST(self):
            running.add(threading.get_ident())
            try:
                self.complete()
            finally:
                running.discard(threading.get_ident())

        def complete(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if behaviour == "hangs":
                time.sleep(3600)
            if behaviour == "crash_later":
                os._exit(3)
            if behaviour == "sick_live" and "x-forwarded-for" in {name.lower() for name in self.headers}:
                return self.answer(500, {"error": {"message": "out of memory"}})
            for known in golden:
                if known["messages"] == request["messages"]:
                    break
            else:
                if behaviour == "stuck":
                    time.sleep(3600)
                return self.answer(400, {"error": {"message": "only golden questions are answered"}})
            tokens = known["token_ids"]
            if behaviour == "wrong":
                tokens = [*tokens[:-1], tokens[-1] + 1]
            choice = {"message": {"role": "assistant", "content": "…"}, "token_ids": tokens}
            self.answer(200, {"prompt_token_ids": known["prompt_token_ids"], "choices": [choice]})

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.daemon_threads = True

    def stop(*_):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.02)
    while running:  # answers that have begun end, as in the real server
        time.sleep(0.01)


main()
