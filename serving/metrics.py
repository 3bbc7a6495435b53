"""Prometheus metrics of a server; KServe's `/metrics` route shows them beside its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

REQUESTS = Counter("slipway_requests", "Requests answered", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "slipway_request_seconds", "From the first byte in to the last byte out", ["route"], buckets=_SECONDS
)
GENERATIONS = Counter("slipway_generations", "Requests for an answer by how they ended", ["outcome"])
"""What a rollout decides on. "answered": whole; "failed": 5xx, or broken off by the server; "refused": 4xx, a full
queue among them; "left": the client did not wait for the end. Only the first two tell how good a release is."""

OUTCOMES = ("answered", "failed", "refused", "left")
PROMPT_TOKENS = Counter("slipway_prompt_tokens", "Tokens of prompts whose answers were begun")
COMPLETION_TOKENS = Counter("slipway_completion_tokens", "Tokens of answers, end tokens included")
FIRST_TOKEN_SECONDS = Histogram(
    "slipway_time_to_first_token_seconds", "From the request to the first token, the queue included", buckets=_SECONDS
)
TOKEN_SECONDS = Histogram(
    "slipway_time_per_output_token_seconds",
    "Mean time between an answer's tokens, the first excepted",
    buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2),
)
FINISHED = Counter("slipway_answers", "Answers by how they ended", ["reason"])
RUNNING = Gauge("slipway_requests_running", "Answers being written")
WAITING = Gauge("slipway_queue_depth", "Requests that wait for a place")
RELEASE = Gauge("slipway_release_info", "Always 1; the labels say what is served", ["model", "release"])

# A counter that was never raised would not be shown, and nobody could tell none from unknown.
for outcome in OUTCOMES:
    GENERATIONS.labels(outcome=outcome)
