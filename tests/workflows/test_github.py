from __future__ import annotations

from collections.abc import Iterator

import pytest

from ci.commands import CiError
from ci.github import Repository
from tests.workflows.fakes import Service

COMMENTS = "/repos/somebody/slipway/issues/7/comments"


@pytest.fixture
def repository(service: Service) -> Iterator[Repository]:
    with service.serve() as url:
        yield Repository("somebody/slipway", url, "ghs_token")


def comment(number: int, body: str, kind: str = "Bot") -> dict:
    return {"id": number, "body": body, "user": {"type": kind}}


def test_the_first_comment_is_written(service: Service, repository: Repository):
    service.set("GET", f"{COMMENTS}?per_page=100&page=1", (200, [comment(1, "hello")]))
    service.set("POST", COMMENTS, (201, {}))
    repository.comment(7, "preview", "live")
    assert service.sent("POST") == [{"body": "<!-- slipway: preview -->\nlive"}]
    assert all(headers["Authorization"] == "Bearer ghs_token" for _, _, _, headers in service.asked)


def test_the_next_one_takes_its_place_also_on_a_later_page(service: Service, repository: Repository):
    service.set("GET", f"{COMMENTS}?per_page=100&page=1", (200, [comment(n, "x") for n in range(100)]))
    service.set("GET", f"{COMMENTS}?per_page=100&page=2", (200, [comment(200, "<!-- slipway: preview -->\nold")]))
    service.set("PATCH", "/repos/somebody/slipway/issues/comments/200", (200, {}))
    repository.comment(7, "preview", "gone")
    assert service.sent("PATCH") == [{"body": "<!-- slipway: preview -->\ngone"}] and not service.sent("POST")


def test_what_a_person_wrote_is_left_alone(service: Service, repository: Repository):
    fake = comment(5, "<!-- slipway: preview -->\nmine", kind="User")
    service.set("GET", f"{COMMENTS}?per_page=100&page=1", (200, [fake]))
    service.set("POST", COMMENTS, (201, {}))
    repository.comment(7, "preview", "live")
    assert service.sent("POST") and not service.sent("PATCH")


def test_a_pull_request(service: Service, repository: Repository):
    told = {"state": "closed", "labels": [{"name": "preview"}, {"name": "x"}]}
    service.set("GET", "/repos/somebody/slipway/pulls/7", (200, told))
    assert repository.pull_request(7) == (False, {"preview", "x"})


def test_labels_are_taken_off_that_are_there(service: Service, repository: Repository):
    told = {"state": "open", "labels": [{"name": "preview"}, {"name": "x"}]}
    service.set("GET", "/repos/somebody/slipway/pulls/7", (200, told))
    service.set("DELETE", "/repos/somebody/slipway/issues/7/labels/preview", (200, []))
    repository.unlabel(7, "preview", "preview-end")
    assert [path for how, path, _, _ in service.asked if how == "DELETE"] == [
        "/repos/somebody/slipway/issues/7/labels/preview"
    ]


def test_a_refusal_is_told_with_github_s_words(service: Service, repository: Repository):
    service.set("GET", "/repos/somebody/slipway/pulls/7", (403, {"message": "Resource not accessible by integration"}))
    with pytest.raises(CiError, match=r"403 to GET pulls/7.*not accessible"):
        repository.pull_request(7)


def test_github_out_of_reach():
    with pytest.raises(CiError, match="does not answer"):
        Repository("a/b", "http://127.0.0.1:9", "x").pull_request(1)


def test_a_comment_that_is_too_long_is_refused_before_it_is_sent(service: Service, repository: Repository):
    with pytest.raises(CiError, match="65,536"):
        repository.comment(7, "x", "y" * 70_000)
    assert service.asked == []


@pytest.mark.parametrize("name", ["somebody", "a/b/c", "a/../b", "a/b?x=1"])
def test_a_repository_s_name_cannot_change_the_address(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv("GITHUB_REPOSITORY", name)
    monkeypatch.setenv("GITHUB_TOKEN", "x")
    with pytest.raises(CiError, match="OWNER/NAME"):
        Repository.from_environment()
