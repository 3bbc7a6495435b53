"""From built images to a signed release; each command is one job's step in .github/workflows/release.yml.

python -m ci.release export      the built images as files, with their digests
python -m ci.release smoke       train, evaluate, gate and serve a tiny model inside the image of the steps
python -m ci.release scan        CRITICAL vulnerabilities fail, and secrets in a layer
python -m ci.release push        under the commit, short and full, each given once; `latest` where asked for
python -m ci.release sign        cosign without a key, and the SBOMs as attestations, each once; then verified
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import job, layout
from ci.commands import ROOT, CiError, ask, program, run
from ci.registry import Registry

PLACE = ROOT / "build"
BUILT = PLACE / "images"
"""Where `make images` says what it built."""

SBOMS = PLACE / "sbom"
"""Where `make sbom` puts what is inside."""

LAYOUT = PLACE / "layout"
WRITTEN = PLACE / "release/images.env"
ISSUER = "https://token.actions.githubusercontent.com"
"""Who signs a job's token; cosign's certificate names it."""

_OWN_TAGS = "--new-bundle-format=false"
"""Signature and SBOM get a tag each, sha256-….sig and sha256-….att, written once. In cosign 3's own form both are
referrers of the image: a registry that does not list these gets one tag for both, which moves with the second and is
refused where tags may not move; in one that does they have no tag, and a clean-up may take what has none."""

_COSIGN = "https://github.com/sigstore/cosign"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMOKE_SECONDS = 1800


@dataclass(frozen=True)
class Image:
    """One image of a release."""

    name: str
    repository: str
    suffix: str
    """Ends its tags, where two images share a repository."""

    variable: str
    """By which `slipway compile`, `submit` and the manifests read its address."""


IMAGES = (
    Image("serving", "slipway-serving", "", "SLIPWAY_IMAGE_SERVING"),
    Image("components", "slipway-python", "-cpu", "SLIPWAY_IMAGE_CPU"),
    Image("components-cuda", "slipway-python", "-cuda", "SLIPWAY_IMAGE_CUDA"),
)
STEPS = "components"
"""The one that is tried: `components-cuda` differs from it in its environment alone."""


# --- build -----------------------------------------------------------------------------------------------------


def export(names: Sequence[str] = ()) -> None:
    """Write what `make images` built to build/layout, and tell its digests to the jobs that follow; without names all.

    Raises CiError for what must not be released: a base without a digest, or another image than was looked into.
    """
    told = {image.name: _told(image) for image in chosen(names)}
    if loose := [f"{name} upon {one['base']}" for name, one in told.items() if not one["pinned"]]:
        raise CiError(f"{', '.join(loose)}: no digest names this base, so nobody can say what it was: make pin")
    shutil.rmtree(LAYOUT, ignore_errors=True)
    LAYOUT.parent.mkdir(exist_ok=True)
    for name, one in told.items():
        run([one["engine"], "push", "--format=oci", one["reference"], f"oci:{LAYOUT}:{name}"])
        if (config := layout.config_digest(LAYOUT, name)) != one["identity"]:
            raise CiError(f"{one['reference']} is {config} now, and {one['identity']} was built: make images")
    found = layout.digests(LAYOUT)
    job.output("digests", json.dumps(found))
    rows = "\n".join(f"| {name} | `{digest}` | {told[name]['megabytes']} |" for name, digest in found.items())
    job.summary(f"### Built\n\n| image | digest | MB unpacked |\n|---|---|---|\n{rows}")


def chosen(names: Sequence[str]) -> list[Image]:
    """Those named, all without names. Raises CiError."""
    if unknown := sorted(set(names) - {image.name for image in IMAGES}):
        raise CiError(f"{', '.join(unknown)}: none of {', '.join(image.name for image in IMAGES)}")
    return [image for image in IMAGES if not names or image.name in names]


def _told(image: Image) -> dict[str, Any]:
    """What `make images` says of an image. Raises CiError."""
    try:
        told = json.loads((BUILT / f"{image.name}.json").read_text())
    except OSError as error:
        raise CiError(f"{image.name} was not built here: make images") from error
    if told["engine"] != "buildah":
        raise CiError(f"{image.name} was built by {told['engine']}; a release is made with buildah: ENGINE=buildah")
    if (told["repository"], told["flavour"]) != (image.repository, image.suffix):
        raise CiError(f"{image.name} is {told['repository']}{told['flavour']}, and ci/release.py knows it otherwise")
    return told


def built() -> dict[str, str]:
    """DIGESTS, as `export` told them; checked against what lies here. Raises CiError."""
    expected = json.loads(job.value("DIGESTS", "the output `digests` of the job `build`"))
    layout.check(LAYOUT, expected)
    return expected


# --- try -------------------------------------------------------------------------------------------------------


def smoke() -> None:
    """The whole path on a tiny model inside the image of the steps. Raises CiError unless the gate says pass.

    No network, nothing writable but /tmp, no capabilities, not root: as in a cluster, or stricter.
    """
    digests = built()
    told = _last_object(_in_image(STEPS, "slipway run smoke --json"))
    if told.get("verdict") != "pass":
        raise CiError(f"the gate inside the image says {told.get('verdict')!r}: {told.get('reason')}")
    job.summary(
        f"### Tried inside `{digests[STEPS][:19]}…`\n\nverdict: **pass**, {told['reason']}; "
        f"{told.get('seconds', 0):.0f} s for {len(told.get('steps', []))} steps"
    )


def _in_image(name: str, command: str) -> str:
    """What a command prints in an image of the layout; bundled data is there, read-only."""
    script = f"mkdir /tmp/work && cd /tmp/work && ln -s /data data && {command}"
    if shutil.which("podman"):
        limits = [
            "--network=none",
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--pids-limit=1024",
        ]
        places = ["--tmpfs=/tmp:rw,exec,size=8g,mode=1777", f"--volume={ROOT / 'data'}:/data:ro,z", "--entrypoint="]
        command_line = ["podman", "run", "--rm", *limits, *places, f"oci:{LAYOUT}:{name}", "sh", "-c", script]
        return ask(command_line, seconds=_SMOKE_SECONDS)
    return _with_buildah(name, script)


def _with_buildah(name: str, script: str) -> str:
    """Where there is no podman; of its limits only the user is kept, and the network is this machine's."""
    container = ask(["buildah", "from", f"oci:{LAYOUT}:{name}"]).strip()
    try:
        flags = ["--isolation=chroot", "--user=65532:65532", f"--volume={ROOT / 'data'}:/data:ro"]
        return ask(["buildah", "run", *flags, container, "--", "sh", "-c", script], seconds=_SMOKE_SECONDS)
    finally:
        run(["buildah", "rm", container])


def _last_object(text: str) -> dict[str, Any]:
    """The JSON that a command prints last, after what its steps said."""
    start = text.rfind("\n{\n")
    try:
        return json.loads(text[start + 1 :])
    except ValueError as error:
        raise CiError(f"the run inside the image printed no result; the end of it:\n{text[-2000:]}") from error


# --- scan ------------------------------------------------------------------------------------------------------


SCANS = (
    ("vulnerability", ("--scanners=vuln", "--severity=CRITICAL")),
    # a severity is asked of both alike, and to trivy a private key is HIGH, some tokens are MEDIUM
    ("secret", ("--scanners=secret", "--severity=MEDIUM,HIGH,CRITICAL")),
)
"""What trivy looks for, and from which severity on a release is stopped."""


def scan() -> None:
    """Look through every image, before any registry has it. Raises CiError for what is found."""
    built()
    trivy = program("trivy", "make tools TOOLS=trivy")
    bad = []
    for image in IMAGES:
        alone = layout.single(LAYOUT, image.name, PLACE / "scan" / image.name)
        for what, flags in SCANS:
            try:
                run(scanner(trivy, flags, alone))
            except CiError as error:
                bad.append(f"{image.name}: {what}: {error}")
    if bad:
        raise CiError("\n".join([*bad, "mend it, or name it in .trivyignore with a reason and a date of expiry"]))
    job.summary("### Scanned\n\nno CRITICAL vulnerability and no secret in " + ", ".join(one.name for one in IMAGES))


def scanner(trivy: str, flags: Sequence[str], alone: Path) -> list[str]:
    """The command that looks through the one image of a layout."""
    ignored = f"--ignorefile={ROOT / '.trivyignore'}"
    return [trivy, "image", "--quiet", *flags, "--exit-code=1", ignored, "--timeout=20m", f"--input={alone}"]


# --- push and sign ---------------------------------------------------------------------------------------------


def tags(commit: str, *, latest: bool) -> list[str]:
    """Full and short commit, and `latest` for who looks by hand; what is deployed is named by digest."""
    if not _COMMIT.fullmatch(commit):
        raise CiError(f"GITHUB_SHA {commit!r} is no full commit")
    return [commit, commit[:12], *(["latest"] if latest else [])]


def moves_latest() -> bool:
    """On main, in a registry whose tags may move (SLIPWAY_MOVING_TAGS)."""
    return os.environ.get("GITHUB_REF") == "refs/heads/main" and os.environ.get("SLIPWAY_MOVING_TAGS") == "true"


def push() -> None:
    """Push what was tried and scanned, and write down its addresses; of a commit that was released before, those."""
    digests = built()
    registry = Registry.from_environment()
    wanted = tags(job.value("GITHUB_SHA", "the commit"), latest=moves_latest())
    lines = []
    with tempfile.TemporaryDirectory(prefix="slipway-login-") as folder:
        authfile = registry.log_in(Path(folder))
        for image in IMAGES:
            address = _push_image(registry, image, digests[image.name], wanted, authfile)
            lines.append(f"{image.variable}={address}")
    WRITTEN.parent.mkdir(parents=True, exist_ok=True)
    WRITTEN.write_text("\n".join([*lines, f"SLIPWAY_COMMIT={wanted[0]}", ""]))
    job.output("images", WRITTEN.read_text())
    job.summary("### Pushed\n\n```\n" + WRITTEN.read_text() + "```")


def _push_image(registry: Registry, image: Image, built_digest: str, wanted: list[str], authfile: Path) -> str:
    """The digest that the commit's tags name from now on: of this build, or of the one that was released before."""
    address = f"{registry.prefix}/{image.repository}"
    targets = [f"{address}:{tag}{image.suffix}" for tag in wanted]
    held = {target: registry.digest(target, authfile) for target in targets}
    digest, source = built_digest, f"oci:{LAYOUT}:{image.name}"
    if (earlier := held[targets[0]]) and earlier != digest:
        _judge_released(targets[0], f"{address}@{earlier}", digest, authfile.parent)
        digest, source = earlier, f"docker://{address}@{earlier}"
    for target, there in held.items():
        if there == digest:
            print(f"{target} is there")
        elif there and not target.endswith(f":latest{image.suffix}"):
            raise CiError(_given_once(target, there, digest))
        else:
            _copy(registry, authfile, source, target, digest)
    return f"{address}@{digest}"


def _judge_released(tag: str, address: str, digest: str, login: Path) -> None:
    """Raises CiError unless this workflow has signed what a commit's tag names: then it was tried and scanned."""
    try:
        for check in _checks(program("cosign", _COSIGN), address):
            ask(check, env={"DOCKER_CONFIG": str(login)})
    except CiError as error:
        raise CiError(f"{_given_once(tag, address.partition('@')[2], digest)}\n{error}") from error
    print(f"{tag} was released before, and stays as it is")


def _given_once(tag: str, there: str, digest: str) -> str:
    return (
        f"{tag} is {there} and this build is {digest}: a commit's tag is given once, and what has it was not released; "
        "run the failed jobs again, not all of them, or push a new commit"
    )


def _copy(registry: Registry, authfile: Path, source: str, target: str, digest: str) -> None:
    plain = [*registry.plain("--dest-tls-verify=false"), *registry.plain("--src-tls-verify=false")]
    copy = ["skopeo", "copy", "--preserve-digests", f"--authfile={authfile}", *plain, "--retry-times=3"]
    run([*copy, source, f"docker://{target}"])
    if (arrived := registry.digest(target, authfile)) != digest:
        raise CiError(f"{target} arrived as {arrived}, and {digest} was sent")


def references() -> dict[str, str]:
    """Variable -> address by digest, as `push` wrote them (RELEASED in another job). Raises CiError."""
    text = os.environ.get("RELEASED") or (WRITTEN.read_text() if WRITTEN.exists() else "")
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    for image in IMAGES:
        if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", found.get(image.variable, "")):
            said = f"{image.variable} is {found.get(image.variable)!r}, no address by digest"
            raise CiError(f"{said}; RELEASED is the output `images` of the job `push`")
    if not _COMMIT.fullmatch(found.get("SLIPWAY_COMMIT", "")):
        raise CiError(f"SLIPWAY_COMMIT is {found.get('SLIPWAY_COMMIT')!r}, no full commit")
    return found


def identity() -> str:
    """Who signs: this workflow in this repository on this ref, as the certificate names it."""
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    return f"{server}/{job.value('GITHUB_WORKFLOW_REF', 'OWNER/NAME/.github/workflows/release.yml@REF')}"


def sign() -> None:
    """Sign every image by digest and attach its SBOM, each once; verified as anybody would."""
    cosign = program("cosign", _COSIGN)
    found = references()
    registry = Registry.from_environment()
    with tempfile.TemporaryDirectory(prefix="slipway-login-") as folder:
        registry.log_in(Path(folder))
        env = {"DOCKER_CONFIG": folder}
        for image in IMAGES:
            address = found[image.variable]
            sbom = SBOMS / f"{image.name}.cdx.json"
            if not sbom.is_file():
                raise CiError(f"{sbom} is missing: make sbom, in the job `build`")
            words = (["sign"], ["attest", "--type=cyclonedx", f"--predicate={sbom}"])
            for make, check in zip(words, _checks(cosign, address), strict=True):
                # what an earlier attempt has signed stays as it is: a second signature would move the tag
                if not _holds(check, env):
                    run([cosign, *make, _OWN_TAGS, "--use-signing-config=false", "--yes", address], env=env)
                    ask(check, env=env)
    job.summary(
        f"### Signed\n\nas `{identity()}`; verify with\n\n```\n"
        f"cosign verify {_OWN_TAGS} --certificate-identity={identity()} "
        f"--certificate-oidc-issuer={ISSUER} {found['SLIPWAY_IMAGE_SERVING']}\n```"
    )


def _checks(cosign: str, address: str) -> tuple[list[str], list[str]]:
    """The commands that verify an image's signature and its SBOM's, and print the signature and the whole SBOM."""
    who = [_OWN_TAGS, f"--certificate-identity={identity()}", f"--certificate-oidc-issuer={ISSUER}", address]
    return [cosign, "verify", *who], [cosign, "verify-attestation", "--type=cyclonedx", *who]


def _holds(check: list[str], env: dict[str, str]) -> bool:
    try:
        ask(check, env=env)
    except CiError:
        return False
    return True


COMMANDS: dict[str, Callable[..., None]] = {"export": export, "smoke": smoke, "scan": scan, "push": push, "sign": sign}


def main(arguments: list[str]) -> int:
    command = COMMANDS.get(arguments[0] if arguments else "")
    if command is None or (arguments[1:] and command is not export):
        print(f"usage: python -m ci.release {'|'.join(COMMANDS)}; `export` takes images' names", file=sys.stderr)
        return 2
    try:
        command(*([arguments[1:]] if command is export else []))
    except CiError as error:
        return job.fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
