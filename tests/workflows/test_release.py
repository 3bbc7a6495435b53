"""From built images to a signed release: each step as the workflow has it, with the registry's tools by hand."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from ci import release
from tests.workflows import layouts
from tests.workflows.fakes import Call
from tests.workflows.workspace import Workspace

GOOGLE = "us-central1-docker.pkg.dev/my-project/slipway-dev"
Done = subprocess.CompletedProcess[str]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN = {"verdict": "pass", "reason": "better", "seconds": 61.2, "steps": [{}] * 9}


@pytest.fixture
def digests(workspace: Workspace) -> dict[str, str]:
    return layouts.write(workspace.folder / "build/layout")


def values(digests: dict[str, str], registry: str = GOOGLE, moving: str = "") -> dict[str, str]:
    """What the expressions of release.yml come to."""
    return {
        "needs.build.outputs.digests": json.dumps(digests),
        "vars.SLIPWAY_REGISTRY": registry,
        "vars.SLIPWAY_MOVING_TAGS": moving,
        "steps.google.outputs.access_token || github.token": "ya29.secret",
    }


# --- export ----------------------------------------------------------------------------------------------------


def tell_built(workspace: Workspace, digests: dict[str, str], **changes: object) -> None:
    """What `make images` leaves behind."""
    (workspace.folder / "build/images").mkdir(parents=True, exist_ok=True)
    for image in release.IMAGES:
        manifest = workspace.folder / "build/layout/blobs/sha256" / digests[image.name].removeprefix("sha256:")
        told = {
            "reference": f"localhost/{image.repository}{image.suffix}:1",
            "identity": json.loads(manifest.read_text())["config"]["digest"],
            "repository": image.repository,
            "flavour": image.suffix,
            "base": "docker.io/library/python@sha256:" + "1" * 64,
            "pinned": True,
            "megabytes": 800,
            "engine": "buildah",
        }
        (workspace.folder / f"build/images/{image.name}.json").write_text(json.dumps({**told, **changes}))


def pushes_layout(workspace: Workspace) -> None:
    """buildah writes the same layout again."""
    layout = workspace.folder / "build/layout"
    files = {str(path): path.read_text() for path in layout.rglob("*") if path.is_file()}
    workspace.programs.answer("buildah", "^push", writes=files)


def test_what_was_built_is_written_and_its_digests_are_told(workspace: Workspace, digests: dict[str, str]):
    tell_built(workspace, digests)
    pushes_layout(workspace)
    done = workspace.step("release.yml", "build", "buildah unshare make release-export", {})
    assert done.returncode == 0, done.stderr
    assert json.loads(workspace.outputs["digests"]) == digests
    assert len(workspace.programs.lines("buildah")) == 3
    assert digests["serving"] in workspace.summary


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pinned": False, "base": "localhost/slipway-base:1"}, "upon localhost/slipway-base:1"),
        ({"identity": "sha256:" + "0" * 64}, "was built: make images"),
        ({"engine": "docker"}, "made with buildah"),
        ({"flavour": "-arm"}, "knows it otherwise"),
    ],
)
def test_what_must_not_be_released_is_not_written(
    workspace: Workspace, digests: dict[str, str], changes: dict[str, object], says: str
):
    tell_built(workspace, digests, **changes)
    pushes_layout(workspace)
    done = workspace.make("release-export")
    assert done.returncode == 2 and says in done.stderr
    assert "digests" not in workspace.outputs


def test_nothing_built(workspace: Workspace):
    done = workspace.make("release-export", "IMAGES=serving")
    assert done.returncode == 2 and "serving was not built here: make images" in done.stderr


# --- smoke and scan --------------------------------------------------------------------------------------------


def smoke(workspace: Workspace, digests: dict[str, str], told: dict[str, object], code: int = 0) -> Done:
    workspace.programs.answer("podman", "^run", says="steps\n" + json.dumps(told, indent=1) + "\n", code=code)
    return workspace.step("release.yml", "smoke", "make release-smoke", values(digests))


def test_a_pass_inside_the_image_goes_on(workspace: Workspace, digests: dict[str, str]):
    assert smoke(workspace, digests, RUN).returncode == 0
    (call,) = workspace.programs.calls("podman")
    assert {"--network=none", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"} <= set(call.words)
    assert f"oci:{workspace.folder}/build/layout:components" in call.words
    assert "slipway run smoke --json" in call.words[-1]
    assert "**pass**" in workspace.summary


@pytest.mark.parametrize(
    ("told", "code"), [({**RUN, "verdict": "fail"}, 3), ({**RUN, "verdict": "inconclusive"}, 4), (RUN, 1)]
)
def test_nothing_but_a_pass_goes_on(workspace: Workspace, digests: dict[str, str], told: dict[str, object], code: int):
    assert smoke(workspace, digests, told, code).returncode == 2


def test_a_verdict_is_read_although_the_exit_code_is_good(workspace: Workspace, digests: dict[str, str]):
    done = smoke(workspace, digests, {**RUN, "verdict": "fail", "reason": "worse"})
    assert done.returncode == 2 and "'fail': worse" in done.stderr


def test_a_run_without_a_result_is_no_pass(workspace: Workspace, digests: dict[str, str]):
    workspace.programs.answer("podman", "^run", says="Killed\n")
    done = workspace.step("release.yml", "smoke", "make release-smoke", values(digests))
    assert done.returncode == 2 and "printed no result" in done.stderr


def test_without_podman_buildah_tries_it_as_the_same_user(
    workspace: Workspace, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(release.shutil, "which", lambda name: None)
    monkeypatch.setenv("PATH", workspace.programs.path)
    workspace.programs.answer("buildah", "^from", says="container\n")
    workspace.programs.answer("buildah", "^run", says=json.dumps(RUN, indent=1))
    assert release._last_object(release._in_image("components", "slipway run smoke --json")) == RUN
    lines = workspace.programs.lines("buildah")
    assert "--user=65532:65532" in lines[1] and lines[2] == "buildah rm container"


@pytest.mark.parametrize("target", ["smoke", "scan", "push"])
def test_another_image_than_was_built_is_refused(workspace: Workspace, digests: dict[str, str], target: str):
    workspace.programs.put("podman", "trivy", "skopeo")
    other = {**digests, "serving": "sha256:" + "0" * 64}
    done = workspace.step("release.yml", target, f"make release-{target}", values(other))
    assert done.returncode == 2 and "nothing is pushed" in done.stderr
    assert workspace.programs.calls() == []


def test_every_image_is_scanned_for_both(workspace: Workspace, digests: dict[str, str]):
    workspace.programs.put("trivy")
    done = workspace.step("release.yml", "scan", "make release-scan", values(digests))
    assert done.returncode == 0, done.stderr
    calls = workspace.programs.calls("trivy")
    told = {(Path(call.words[-1]).name, *(word for word in call.words if "--s" in word)) for call in calls}
    assert told == {
        (image.name, *words)
        for image in release.IMAGES
        for words in (
            ("--scanners=vuln", "--severity=CRITICAL"),
            ("--scanners=secret", "--severity=MEDIUM,HIGH,CRITICAL"),
        )
    }
    assert all("--exit-code=1" in call.words for call in calls)
    assert all(any(word.startswith("--ignorefile=") for word in call.words) for call in calls)


@pytest.mark.parametrize(("scanner", "named"), [("vuln", "vulnerability"), ("secret", "secret")])
def test_one_finding_stops_a_release_and_the_rest_is_scanned_too(
    workspace: Workspace, digests: dict[str, str], scanner: str, named: str
):
    workspace.programs.answer("trivy", f"--scanners={scanner} .*scan/components$", code=1)
    done = workspace.step("release.yml", "scan", "make release-scan", values(digests))
    assert done.returncode == 2 and f"components: {named}" in done.stderr and ".trivyignore" in done.stderr
    assert len(workspace.programs.calls("trivy")) == 6


# --- push ------------------------------------------------------------------------------------------------------


def registry(workspace: Workspace, digests: dict[str, str], taken: str = "") -> None:
    """A registry that has nothing, then what was copied; `taken` is what a tag holds already."""
    for image in release.IMAGES:
        tags = rf"/{image.repository}:\w+{image.suffix}$"
        for tag in (COMMIT, COMMIT[:12], "latest"):
            exact = rf"^inspect.*/{image.repository}:{tag}{image.suffix}$"
            if taken:
                workspace.programs.answer("skopeo", exact, says=taken, times=1)
            else:
                workspace.programs.answer("skopeo", exact, complains="manifest unknown", code=1, times=1)
        workspace.programs.answer("skopeo", "^inspect.*" + tags, says=digests[image.name] + "\n")


def push(workspace: Workspace, digests: dict[str, str], **more: str) -> Done:
    return workspace.step("release.yml", "push", "make release-push", values(digests, **more))


def test_images_are_pushed_under_their_commit_and_told_by_digest(workspace: Workspace, digests: dict[str, str]):
    registry(workspace, digests)
    done = push(workspace, digests)
    assert done.returncode == 0, done.stderr
    copies = [call for call in workspace.programs.calls("skopeo") if call.words[0] == "copy"]
    assert sorted(call.words[-1].removeprefix(f"docker://{GOOGLE}/") for call in copies) == sorted(
        f"{image.repository}:{tag}{image.suffix}" for image in release.IMAGES for tag in (COMMIT, COMMIT[:12])
    )
    assert all("--preserve-digests" in call.words for call in copies)
    told = dict(line.split("=", 1) for line in workspace.outputs["images"].splitlines())
    assert told == {
        "SLIPWAY_IMAGE_SERVING": f"{GOOGLE}/slipway-serving@{digests['serving']}",
        "SLIPWAY_IMAGE_CPU": f"{GOOGLE}/slipway-python@{digests['components']}",
        "SLIPWAY_IMAGE_CUDA": f"{GOOGLE}/slipway-python@{digests['components-cuda']}",
        "SLIPWAY_COMMIT": COMMIT,
    }


@pytest.mark.parametrize(
    ("moving", "ref", "expected"),
    [("true", "refs/heads/main", True), ("true", "refs/heads/dev", False), ("", "refs/heads/main", False)],
)
def test_latest_is_for_main_and_where_tags_may_move(
    workspace: Workspace, digests: dict[str, str], moving: str, ref: str, expected: bool
):
    registry(workspace, digests)
    workspace.github["GITHUB_REF"] = ref
    assert push(workspace, digests, moving=moving).returncode == 0
    assert any(":latest" in line for line in workspace.programs.lines("skopeo")) is expected


def test_pushing_again_copies_nothing(workspace: Workspace, digests: dict[str, str]):
    for image in release.IMAGES:
        says = digests[image.name]
        workspace.programs.answer("skopeo", rf"^inspect.*/{image.repository}:\w+{image.suffix}$", says=says)
    assert push(workspace, digests).returncode == 0
    assert not [line for line in workspace.programs.lines("skopeo") if "copy" in line]


EARLIER = "sha256:" + "9" * 64


def test_a_commit_is_given_to_one_build_only(workspace: Workspace, digests: dict[str, str]):
    """What nobody has signed may be an attempt that did not end, or a stranger's."""
    registry(workspace, digests, taken=EARLIER)
    workspace.programs.answer("cosign", "^verify ", complains="no signatures", code=1)
    done = push(workspace, digests)
    assert done.returncode == 2 and "run the failed jobs again" in done.stderr and "no signatures" in done.stderr
    assert "images" not in workspace.outputs


def test_a_commit_that_was_released_goes_on_with_what_was_released(workspace: Workspace, digests: dict[str, str]):
    """By hand, once more: an image that is built again has another digest, and the first is in use."""
    for image in release.IMAGES:
        short = rf"^inspect.*/{image.repository}:{COMMIT[:12]}{image.suffix}$"
        workspace.programs.answer("skopeo", short, complains="manifest unknown", code=1, times=1)
    workspace.programs.answer("skopeo", "^inspect", says=EARLIER)
    workspace.programs.put("cosign")
    done = push(workspace, digests)
    assert done.returncode == 0, done.stderr
    told = dict(line.split("=", 1) for line in workspace.outputs["images"].splitlines())
    assert {told[image.variable].partition("@")[2] for image in release.IMAGES} == {EARLIER}
    verified = workspace.programs.calls("cosign")
    assert [call.words[-1] for call in verified[::2]] == [told[image.variable] for image in release.IMAGES]
    copies = [call.words[-2:] for call in workspace.programs.calls("skopeo") if call.words[0] == "copy"]
    assert copies == [
        [f"docker://{told[image.variable]}", f"docker://{GOOGLE}/{image.repository}:{COMMIT[:12]}{image.suffix}"]
        for image in release.IMAGES
    ], "a tag that lacks is made of what was released"


def test_what_arrives_as_something_else_is_noticed(workspace: Workspace, digests: dict[str, str]):
    workspace.programs.answer("skopeo", "^inspect", complains="manifest unknown", code=1, times=1)
    workspace.programs.answer("skopeo", "^inspect", says="sha256:" + "9" * 64)
    done = push(workspace, digests)
    assert done.returncode == 2 and "arrived as" in done.stderr


def test_a_registry_that_refuses_is_not_taken_for_an_empty_one(workspace: Workspace, digests: dict[str, str]):
    workspace.programs.answer("skopeo", "^inspect", complains="unauthorized: access denied", code=1)
    done = push(workspace, digests)
    assert done.returncode == 2 and "unauthorized" in done.stderr
    assert not [line for line in workspace.programs.lines("skopeo") if "copy" in line]


@pytest.mark.parametrize(
    "prefix", ["https://ghcr.io/a", "ghcr.io", "GHCR.io/A", "ghcr.io/a:latest", "ghcr.io/a b", "--x/a"]
)
def test_a_registry_that_is_none_is_refused(workspace: Workspace, digests: dict[str, str], prefix: str):
    workspace.programs.put("skopeo")
    done = push(workspace, digests, registry=prefix)
    assert done.returncode == 2 and "must be HOST/PATH" in done.stderr
    assert workspace.programs.calls() == []


def test_the_token_is_in_a_file_of_its_own_and_on_no_command_line(
    workspace: Workspace, digests: dict[str, str], tmp_path: Path
):
    registry(workspace, digests)
    program = workspace.programs.folder / "skopeo"
    spy = (
        'path = next(one[11:] for one in sys.argv if one.startswith("--authfile="))\n'
        f'open({str(tmp_path / "seen")!r}, "w").write(oct(os.stat(path).st_mode) + open(path).read())\n'
    )
    program.write_text(
        program.read_text().replace("import json, os, re, sys, time\n", f"import json, os, re, sys, time\n{spy}")
    )
    done = push(workspace, digests)
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith(oct(stat.S_IFREG | 0o600))
    assert list(json.loads(seen[8:])["auths"]) == ["us-central1-docker.pkg.dev"]
    said = done.stdout + done.stderr + "".join(workspace.programs.lines())
    assert "ya29.secret" not in said


# --- sign ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pushed(workspace: Workspace, digests: dict[str, str]) -> Workspace:
    registry(workspace, digests)
    assert push(workspace, digests).returncode == 0
    (workspace.folder / "build/sbom").mkdir()
    for image in release.IMAGES:
        (workspace.folder / f"build/sbom/{image.name}.cdx.json").write_text("{}")
    workspace.programs.put("cosign")
    return workspace


def cosigned(calls: list[Call]) -> list[tuple[str, str]]:
    """(what cosign did, to which repository)."""
    return [(call.words[0], call.words[-1].rpartition("/")[2].partition("@")[0]) for call in calls]


def unsigned(workspace: Workspace, digests: dict[str, str], *checks: str) -> None:
    """The first look at each image finds nothing that these checks of cosign would take."""
    for digest in digests.values():
        for check in checks:
            workspace.programs.answer("cosign", rf"^{check} .*@{digest}$", complains="no signatures", code=1, times=1)


def test_images_are_signed_by_digest_and_verified(pushed: Workspace, digests: dict[str, str]):
    unsigned(pushed, digests, "verify", "verify-attestation")
    done = pushed.step("release.yml", "push", "make release-sign", values(digests))
    assert done.returncode == 0, done.stderr
    calls = pushed.programs.calls("cosign")
    wanted = [
        (verb, image.repository)
        for image in release.IMAGES
        for verb in ("verify", "sign", "verify", "verify-attestation", "attest", "verify-attestation")
    ]
    assert cosigned(calls) == wanted
    assert all("@sha256:" in call.words[-1] for call in calls)
    identity = (
        "--certificate-identity=https://github.com/somebody/slipway/.github/workflows/release.yml@refs/heads/main"
    )
    assert all(identity in call.words for call in calls if call.words[0].startswith("verify"))
    assert all("--yes" in call.words for call in calls if call.words[0] in ("sign", "attest"))
    assert not [call for call in calls if Path(call.env["DOCKER_CONFIG"]).exists()]


def test_signature_and_sbom_have_a_tag_each(pushed: Workspace, digests: dict[str, str]):
    """In cosign's newer form both stand behind one tag, which moves with the second, or behind none."""
    unsigned(pushed, digests, "verify", "verify-attestation")
    assert pushed.step("release.yml", "push", "make release-sign", values(digests)).returncode == 0
    calls = pushed.programs.calls("cosign")
    assert all("--new-bundle-format=false" in call.words for call in calls)
    assert all(("--use-signing-config=false" in call.words) == (call.words[0] in ("sign", "attest")) for call in calls)
    assert "cosign verify --new-bundle-format=false" in pushed.summary


def test_what_an_earlier_attempt_has_signed_is_not_signed_again(pushed: Workspace, digests: dict[str, str]):
    """A second signature would move the tag of the first."""
    unsigned(pushed, digests, "verify-attestation")
    done = pushed.step("release.yml", "push", "make release-sign", values(digests))
    assert done.returncode == 0, done.stderr
    verbs = [verb for verb, _ in cosigned(pushed.programs.calls("cosign"))]
    assert verbs == ["verify", "verify-attestation", "attest", "verify-attestation"] * len(release.IMAGES)


def test_a_signature_that_does_not_verify_stops_the_release(pushed: Workspace, digests: dict[str, str]):
    pushed.programs.answer("cosign", "^verify ", code=1)
    assert pushed.step("release.yml", "push", "make release-sign", values(digests)).returncode == 2


def test_without_an_sbom_nothing_is_signed(pushed: Workspace, digests: dict[str, str]):
    (pushed.folder / "build/sbom/serving.cdx.json").unlink()
    done = pushed.step("release.yml", "push", "make release-sign", values(digests))
    assert done.returncode == 2 and "make sbom" in done.stderr
    assert pushed.programs.calls("cosign") == []


def test_every_image_that_is_built_is_released_and_named_as_it_is_there():
    from images.catalogue import IMAGES as BUILT

    assert {(one.name, one.repository, one.suffix) for one in release.IMAGES} == {
        (one.name, one.repository, one.flavour) for one in BUILT.values()
    }
