"""The few calls of GitHub's API that workflows make, as the job's own token may."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from ci import job
from ci.commands import CiError

_LONGEST_COMMENT = 65_000
"""GitHub takes 65,536 characters."""


@dataclass(frozen=True)
class Repository:
    """OWNER/NAME, and the API where it is."""

    name: str
    api: str
    token: str

    @classmethod
    def from_environment(cls) -> Repository:
        """Raises CiError."""
        name = job.value("GITHUB_REPOSITORY", "OWNER/NAME")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise CiError(f"GITHUB_REPOSITORY {name!r} is not OWNER/NAME")
        api = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
        return cls(name, api, job.value("GITHUB_TOKEN", "the job's token"))

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the API answers. Raises CiError with its words."""
        request = urllib.request.Request(
            f"{self.api}/repos/{self.name}/{path}",
            None if body is None else json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            raise CiError(
                f"GitHub answers {error.code} to {method} {path}: {error.read(500).decode(errors='replace')}"
            ) from error
        except (urllib.error.URLError, OSError) as error:
            raise CiError(f"GitHub does not answer {method} {path}: {error}") from error
        return json.loads(text) if text else None

    def pull_request(self, number: int) -> tuple[bool, set[str]]:
        """(whether it is open, its labels)."""
        told = self.call("GET", f"pulls/{number}")
        return told["state"] == "open", {label["name"] for label in told["labels"]}

    def unlabel(self, number: int, *labels: str) -> None:
        """Take those of these labels that a pull request has off it."""
        _, held = self.pull_request(number)
        for label in sorted(held.intersection(labels)):
            self.call("DELETE", f"issues/{number}/labels/{urllib.parse.quote(label)}")

    def comment(self, number: int, subject: str, text: str) -> None:
        """One comment for each subject: written once, replaced from then on."""
        marker = f"<!-- slipway: {subject} -->"
        body = f"{marker}\n{text}"
        if len(body) > _LONGEST_COMMENT:
            raise CiError(f"a comment of {len(body):,} characters; GitHub takes 65,536")
        page = 1
        while True:
            told = self.call("GET", f"issues/{number}/comments?per_page=100&page={page}")
            for comment in told:
                # anybody can write the marker; only what a workflow wrote is replaced
                if comment["body"].startswith(marker) and comment["user"]["type"] == "Bot":
                    self.call("PATCH", f"issues/comments/{comment['id']}", {"body": body})
                    return
            if len(told) < 100:
                break
            page += 1
        self.call("POST", f"issues/{number}/comments", {"body": body})
