"""The course of a preview: with everything made by hand first, then with Terraform, gcloud and GitHub at the border."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci.commands import CiError
from ci.preview import preview
from ci.preview.cloud_run import CloudRun, name_of
from ci.preview.preview import Clock
from ci.terraform import Terraform
from tests.workflows import layouts, tools
from tests.workflows.conftest import SETTINGS
from tests.workflows.fakes import Programs, Service
from tests.workflows.workspace import Workspace

# --- by hand ---------------------------------------------------------------------------------------------------


class Time:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.sleep)


@dataclass
class Made:
    """A target that remembers, and fails where it is told to."""

    fails: set[str] = field(default_factory=set)
    stays: int = 0
    """How often it still stands after it was destroyed."""

    log: list[str] = field(default_factory=list)
    up: bool = False

    def _do(self, what: str) -> None:
        self.log.append(what)
        if what in self.fails:
            raise CiError(f"{what} failed")

    def apply(self) -> None:
        self.up = True  # half made is made
        self._do("apply")

    @contextmanager
    def reach(self) -> Iterator[str]:
        self._do("reach")
        yield "http://there"

    def told(self) -> str:
        return "http://there"

    def destroy(self) -> None:
        self._do("destroy")
        self.stays -= 1
        self.up = self.stays >= 0

    def exists(self) -> bool:
        return self.up


@dataclass
class Heard:
    log: list[str] = field(default_factory=list)
    fails: bool = False
    ends: Callable[[], str] = lambda: ""

    def live(self, told: str, said: str) -> None:
        self.log.append(f"live {told}: {said}")
        if self.fails:
            raise CiError("GitHub answers 500")

    def gone(self, reason: str) -> None:
        self.log.append(f"gone: {reason}")

    def unwanted(self) -> str:
        return self.ends()


def answers(address: str) -> str:
    return "It moves heat."


def silent(address: str) -> str:
    raise CiError("/health answers 503")


def test_the_whole_course():
    made, heard, time = Made(), Heard(), Time()
    assert preview.run(made, heard, answers, time.clock) == "its 10 minutes are over"
    assert made.log == ["apply", "reach", "destroy"] and not made.up
    assert heard.log == ["live http://there: It moves heat.", "gone: its 10 minutes are over"]
    assert time.now == 600


@pytest.mark.parametrize("fails", ["apply", "reach"])
def test_what_fails_is_destroyed(fails: str):
    made, heard = Made({fails}), Heard()
    with pytest.raises(CiError, match=f"{fails} failed"):
        preview.deploy(made, heard, answers, Time().clock)
    assert made.log[-1] == "destroy" and not made.up
    assert heard.log == [f"gone: it failed, and was destroyed: {fails} failed"]


def test_what_does_not_answer_is_destroyed_and_fails():
    made, heard = Made(), Heard()
    with pytest.raises(CiError, match="503"):
        preview.deploy(made, heard, silent, Time().clock)
    assert not made.up and "live" not in heard.log[0]


def test_what_nobody_would_hear_of_is_destroyed():
    made = Made()
    with pytest.raises(CiError, match="500"):
        preview.deploy(made, Heard(fails=True), answers, Time().clock)
    assert not made.up


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_ends_it_leaves_nothing(error: type[BaseException]):
    made = Made()

    def broken(address: str) -> str:
        raise error()

    with pytest.raises(error):
        preview.deploy(made, Heard(), broken, Time().clock)
    assert not made.up


def test_a_job_that_is_ended_while_it_waits_destroys():
    made, heard, time = Made(), Heard(), Time()

    def cancelled(_: float) -> None:
        raise CiError("ended by signal SIGTERM")

    with pytest.raises(CiError, match="SIGTERM"):
        preview.run(made, heard, answers, Clock(now=lambda: time.now, sleep=cancelled))
    assert not made.up and heard.log[-1] == "gone: the job was ended"


def test_a_label_ends_it_early():
    time = Time()
    heard = Heard(ends=lambda: "somebody set the label" if time.now >= 60 else "")
    assert preview.wait(heard, time.clock) == "somebody set the label" and time.now == 60


def test_github_out_of_reach_makes_it_neither_shorter_nor_longer():
    def broken() -> str:
        raise CiError("GitHub does not answer")

    time = Time()
    assert "minutes are over" in preview.wait(Heard(ends=broken), time.clock) and time.now == 600


def test_destroying_is_tried_again_until_it_is_gone():
    made, time = Made(up=True, stays=2), Time()
    preview.destroy(made, time.clock)
    assert made.log == ["destroy"] * 3 and time.now > 0


def test_what_cannot_be_destroyed_fails_and_says_who_comes_next():
    made = Made({"destroy"}, up=True)
    with pytest.raises(CiError, match="the sweeper will try again: destroy failed"):
        preview.destroy(made, Time().clock)
    assert made.log == ["destroy"] * 3


# --- asking it -------------------------------------------------------------------------------------------------


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    service.set("GET", "/health", (200, {"status": "ok"}))
    service.set("POST", "/generate", (200, {"text": "It moves heat."}))
    with service.serve() as url:
        yield url


def test_health_and_one_answer(service: Service, address: str):
    service.set("GET", "/health", (503, "loading"), (503, "loading"), (200, {}))
    time = Time()
    assert preview.try_live(address, time.clock) == "It moves heat."
    assert time.now == 10 and service.sent("POST")[0]["prompt"]


@pytest.mark.parametrize(
    ("method", "path", "reply", "says"),
    [
        ("GET", "/health", (503, "loading"), "/health answers 503 after 300 s: loading"),
        ("POST", "/generate", (500, "out of memory"), "/generate answers 500: out of memory"),
        ("POST", "/generate", (200, "<html>"), "without a text"),
        ("POST", "/generate", (200, {"text": "  "}), "empty text"),
        ("POST", "/generate", (200, {"text": None}), "empty text"),
        ("POST", "/generate", (200, ["text"]), "without a text"),
    ],
)
def test_what_does_not_work_is_noticed(
    service: Service, address: str, method: str, path: str, reply: tuple[int, object], says: str
):
    service.set(method, path, reply)
    with pytest.raises(CiError, match=re.escape(says)):
        preview.try_live(address, Time().clock)


def test_nobody_there():
    with pytest.raises(CiError, match="answers nothing after 20 s"):
        preview.try_live("http://127.0.0.1:9", Time().clock, seconds=20)


def test_the_server_answers_generate_as_the_check_reads_it():
    from serving import routes

    assert '"text": answer.text' in Path(routes.__file__).read_text()


# --- on Cloud Run ----------------------------------------------------------------------------------------------

STATE = json.dumps({"version": 4, "resources": [{"type": "google_cloud_run_v2_service"}]})
EMPTY = json.dumps({"version": 4, "resources": []})
RELEASE = "gs://my-project-dev-releases/" + "1" * 64


def values(settings: str, **more: str) -> dict[str, str]:
    """What the expressions of preview.yml come to, for pull request 7 and the label `preview`."""
    label = "github.event.label.name == 'preview-gke'"
    dev = "vars[format('SLIPWAY_{0}', vars.SLIPWAY_ENVIRONMENT)]"
    return {
        f"{label} && 'gke' || 'cloudrun'": "cloudrun",
        "github.event.number": "7",
        "github.token": "ghs_token",
        f"{label} && vars.SLIPWAY_EPHEMERAL || {dev}": settings,
        "vars.SLIPWAY_TFVARS_EPHEMERAL": "",
        f"{label} && 'apply' || 'preview'": "preview",
        "steps.google.outputs.access_token": "ya29.secret",
        "steps.push.outputs.image": f"{SETTINGS['preview_registry']}/slipway-serving@sha256:{'2' * 64}",
        "vars.SLIPWAY_PREVIEW_IMAGES": "",
        "vars.SLIPWAY_PREVIEW_RELEASE": RELEASE,
        **more,
    }


def listed(name: str = "preview-pr-7") -> str:
    return json.dumps([{"metadata": {"name": name, "labels": {"app": "slipway", "environment": "demo"}}}])


@dataclass
class Cloud:
    """The workspace, and GitHub beside it."""

    workspace: Workspace
    service: Service

    @property
    def programs(self) -> Programs:
        return self.workspace.programs

    def step(self, job: str, run: str, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
        comments = "/repos/somebody/slipway/issues/7/comments"
        self.service.set("GET", f"{comments}?per_page=100&page=1", (200, []))
        self.service.set("POST", comments, (201, {}))
        held = {"state": "open", "labels": [{"name": one} for one in ("preview", "preview-end", "bug")]}
        self.service.answers.setdefault(("GET", "/repos/somebody/slipway/pulls/7"), [(200, held)])
        for one in ("preview", "preview-end"):
            self.service.set("DELETE", f"/repos/somebody/slipway/issues/7/labels/{one}", (200, []))
        with self.service.serve() as url:
            self.workspace.github["GITHUB_API_URL"] = url
            return self.workspace.step("preview.yml", job, run, values)

    @property
    def comments(self) -> list[str]:
        return [body["body"] for body in self.service.sent("POST") if "body" in body]


@pytest.fixture
def cloud(workspace: Workspace, service: Service) -> Cloud:
    return Cloud(workspace, service)


def test_the_pull_request_s_image_goes_to_the_previews_registry(cloud: Cloud, settings: str):
    digests = layouts.write(cloud.workspace.folder / "build/layout", ("serving",))
    cloud.programs.put("skopeo")
    told = {"needs.build.outputs.digests": json.dumps(digests)}
    done = cloud.step("deploy", "make preview-push", values(settings, **told))
    assert done.returncode == 0, done.stderr
    (line,) = cloud.programs.lines("skopeo")
    assert line.endswith(f"docker://{SETTINGS['preview_registry']}/slipway-serving:preview-pr-7")
    assert cloud.workspace.outputs["image"] == f"{SETTINGS['preview_registry']}/slipway-serving@{digests['serving']}"
    assert "ya29.secret" not in line + done.stdout + done.stderr


def test_a_preview_that_does_not_answer_is_destroyed_and_fails(cloud: Cloud, settings: str):
    cloud.programs.answer("terraform", "output", says="not-an-address")
    cloud.programs.answer("terraform", "state pull", says=STATE)
    cloud.programs.answer("gcloud", "run services list", says="[]")
    done = cloud.step("deploy", "make preview-deploy", values(settings))
    assert done.returncode == 2 and "no address" in done.stderr
    verbs = [call.words[1] for call in cloud.programs.calls("terraform")]
    assert verbs == ["init", "apply", "output", "init", "state", "destroy"]
    assert len(cloud.comments) == 1 and "it failed, and was destroyed" in cloud.comments[0]
    apply = cloud.programs.calls("terraform")[1]
    assert apply.env["TF_VAR_service"] == "preview-pr-7" and apply.env["TF_VAR_public"] == "true"
    assert json.loads(apply.env["TF_VAR_release"]) == {"fetch": RELEASE}
    assert apply.env["TF_VAR_image"].endswith("@sha256:" + "2" * 64)
    assert apply.env["TF_VAR_service_account"] == SETTINGS["demo_service_account"]
    init = cloud.programs.calls("terraform")[0]
    assert "-backend-config=prefix=slipway/cloudrun/preview-pr-7" in init.words
    assert "-backend-config=bucket=my-project-terraform" in init.words


@pytest.mark.parametrize(
    ("name", "says"),
    [("steps.push.outputs.image", "IMAGE_BY_DIGEST"), ("vars.SLIPWAY_PREVIEW_RELEASE", "gs://BUCKET/FOLDER/DIGEST")],
)
def test_what_could_never_answer_is_refused_before_anything_is_made(cloud: Cloud, settings: str, name: str, says: str):
    done = cloud.step("deploy", "make preview-deploy", values(settings, **{name: ""}))
    assert done.returncode == 2 and says in done.stderr
    assert cloud.programs.calls() == []


def test_the_variables_are_those_of_the_root(cloud: Cloud, settings: str):
    """Terraform ignores a TF_VAR_ of a name that it does not know, in silence."""
    cloud.programs.answer("terraform", "apply", code=1)
    cloud.programs.answer("gcloud", "run services list", says="[]")
    cloud.step("deploy", "make preview-deploy", values(settings))
    given = {name[7:] for name in cloud.programs.calls("terraform")[1].env if name.startswith("TF_VAR_")}
    text = (Path(__file__).parents[2] / "terraform/environments/cloudrun/variables.tf").read_text()
    assert given <= set(re.findall(r'^variable "(\w+)"', text, re.MULTILINE))


def test_destroying_by_the_state(cloud: Cloud, settings: str):
    cloud.programs.answer("terraform", "state pull", says=STATE)
    cloud.programs.answer("gcloud", "run services list", says="[]")
    done = cloud.step("destroy", "make preview-destroy", values(settings))
    assert done.returncode == 0, done.stderr
    assert any(call.words[1] == "destroy" for call in cloud.programs.calls("terraform"))
    assert not [line for line in cloud.programs.lines("gcloud") if "delete" in line]
    assert "gone" in cloud.comments[0]
    gone = [path for how, path, _, _ in cloud.service.asked if how == "DELETE"]
    labels = "/repos/somebody/slipway/issues/7/labels"
    assert gone == [f"{labels}/preview", f"{labels}/preview-end"], "the next preview would end at once"


@pytest.mark.parametrize("state", ["", EMPTY])
def test_destroying_what_no_state_knows(cloud: Cloud, settings: str, state: str):
    """The job died between the service and its state."""
    cloud.programs.answer("terraform", "state pull", says=state)
    cloud.programs.answer("gcloud", "run services list", says=listed(), times=1)
    cloud.programs.answer("gcloud", "run services list", says="[]")
    done = cloud.step("destroy", "make preview-destroy", values(settings))
    assert done.returncode == 0, done.stderr
    (delete,) = [line for line in cloud.programs.lines("gcloud") if "delete" in line]
    assert delete == "gcloud run services delete preview-pr-7 --project=my-project --region=us-central1 --quiet"


def test_destroying_past_a_lock_that_a_dead_job_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    programs = Programs(tmp_path / "bin")
    programs.answer("terraform", "state pull", says=STATE)
    programs.answer("terraform", "destroy", code=1, complains="Error acquiring the state lock", times=1)
    programs.answer("gcloud", "run services list", says=listed(), times=1)
    programs.answer("gcloud", "run services list", says="[]")
    monkeypatch.setenv("PATH", programs.path)
    time = Time()
    preview.destroy(CloudRun("preview-pr-7", "my-project", "us-central1", "my-project-terraform"), time.clock)
    assert time.now == 15, "a second try, since Terraform failed in the first"
    assert [line for line in programs.lines("gcloud") if "delete preview-pr-7" in line]


def test_a_lock_that_a_killed_job_left_is_given_back(cloud: Cloud, settings: str):
    """The runner killed Terraform in the middle of `apply`; the lock is an object that never expires."""
    held = "objects describe gs://my-project-terraform/slipway/cloudrun/preview-pr-7/default.tflock"
    cloud.programs.answer("terraform", "force-unlock -force 1700000000000001$")
    cloud.programs.answer("terraform", "state pull", says=STATE)
    cloud.programs.answer("gcloud", held, says=json.dumps({"generation": "1700000000000001"}))
    cloud.programs.answer("gcloud", "run services list", says="[]")
    done = cloud.step("destroy", "make preview-destroy", values(settings))
    assert done.returncode == 0, done.stderr
    verbs = [call.words[1] for call in cloud.programs.calls("terraform")]
    assert verbs == ["init", "state", "force-unlock", "destroy"]


def test_a_lock_that_cannot_be_asked_for_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    programs = Programs(tmp_path / "bin")
    programs.put("terraform")
    programs.answer("gcloud", "objects describe", complains="403: no storage.objects.get", code=1)
    monkeypatch.setenv("PATH", programs.path)
    with pytest.raises(CiError, match="403"):
        Terraform("cloudrun", "my-project-terraform", "slipway/cloudrun/preview-pr-7").destroy()
    assert programs.calls("terraform") == []


def test_waiting_ends_with_the_label(cloud: Cloud, settings: str):
    told = {"state": "open", "labels": [{"name": "preview"}, {"name": "preview-end"}]}
    cloud.service.set("GET", "/repos/somebody/slipway/pulls/7", (200, told))
    done = cloud.step("wait", "make preview-wait", values(settings))
    assert done.returncode == 0 and "the label preview-end" in cloud.workspace.summary


def test_waiting_ends_with_the_pull_request(cloud: Cloud, settings: str):
    cloud.service.set("GET", "/repos/somebody/slipway/pulls/7", (200, {"state": "closed", "labels": []}))
    done = cloud.step("wait", "make preview-wait", values(settings))
    assert done.returncode == 0 and "was closed" in cloud.workspace.summary


@pytest.mark.parametrize("key", ["", "x" * 30, "A", "a/../b", "-", "7;rm"])
def test_a_name_that_would_be_none_is_refused(key: str):
    with pytest.raises(CiError):
        name_of(key)


@pytest.mark.parametrize(
    "command",
    [
        "run services list",
        "run services delete",
        "container clusters list",
        "container clusters delete",
        "container operations list",
        "container operations wait",
        "storage objects describe",
        "storage cat",
    ],
)
def test_gcloud_knows_the_commands(command: str):
    done = subprocess.run(
        [tools.path("gcloud"), *command.split(), "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
