"""Each thing that must not be in an image is found in one where it was put."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from images import look

KEY = "-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(b"0" * 64).decode() + "\n-----END PRIVATE KEY-----\n"
PYTHON_BASE = [
    "PATH=/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D",
    "PYTHON_VERSION=3.11.14",
    "PYTHON_SHA256=8d3ed8ec5c88c1c95f5e558612a725450d2452813ddad5e58fdb1a53b1209b78",
]
"""What the base of images.lock, docker.io/library/python:3.11-slim-bookworm, sets; every image upon it inherits it."""

LABELS = {f"org.opencontainers.image.{label}": "x" for label in look.LABELS}
CONFIG: dict[str, Any] = {"User": "65532:65532", "Env": ["PATH=/opt/venv/bin:/bin", "HOME=/tmp"], "Labels": LABELS}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small image without a fault."""
    for name in ("opt/slipway/serving/__init__.py", "opt/venv/bin/python", "usr/bin/perl"):
        write(tmp_path, name)
    write(tmp_path, "opt/slipway/serving/__pycache__/__init__.cpython-311.pyc")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    return tmp_path


def write(root: Path, name: str, text: str = "", mode: int = 0o644) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    (root / name).chmod(mode)


def test_nothing_is_said_of_an_image_without_a_fault(root: Path):
    assert look.findings(root, CONFIG) == []


def test_what_the_base_of_every_image_sets_is_no_secret(root: Path):
    assert look.findings(root, CONFIG | {"Env": PYTHON_BASE}) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("usr/bin/gcc", "holds /usr/bin/gcc"),
        ("usr/bin/x86_64-linux-gnu-gcc-12", None),  # without `gcc` and `cc` nothing calls it
        ("usr/bin/gcc-12", "holds /usr/bin/gcc-12"),
        ("usr/bin/make", "holds /usr/bin/make"),
        ("usr/bin/git", "holds /usr/bin/git"),
        ("usr/local/bin/pip3.11", "holds /usr/local/bin/pip3.11"),
        ("opt/venv/lib/python3.11/site-packages/pip/__init__.py", "holds pip"),
        ("usr/share/python-wheels/pip-23.0.1-py3-none-any.whl", "holds pip"),
        ("usr/lib/python3.11/ensurepip/_bundled/pip-24.0-py3-none-any.whl", "holds pip"),
        ("run/secrets/pip.conf", "which may be a secret"),
        ("opt/slipway/.env", "which may be a secret"),
        ("opt/slipway/.git", "which may be a secret"),
        ("root/.netrc", "which may be a secret"),
        ("opt/slipway/serving/new.py", "/opt/slipway/serving/new.py is not compiled"),
        ("opt/venv/lib/make.py", None),
        ("usr/share/doc/gcc", None),
    ],
)
def test_a_file_that_should_not_be_there(root: Path, name: str, said: str | None):
    write(root, name)
    found = look.findings(root, CONFIG)
    assert len(found) == (1 if said else 0), found
    assert said is None or said in found[0]


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        KEY.replace("PRIVATE", "RSA PRIVATE"),
        'TOKEN = "ghp_' + "a1" * 18 + '"',
        'token: "hf_' + "a" * 34 + '"',
        "AKIA" + "A1B2" * 4,
        '{"type": "service_account", "private_key_id": "' + "0f" * 20 + '"}',
    ],
    ids=["key", "rsa", "github", "hub", "aws", "google"],
)
def test_a_secret_is_known_by_its_words(root: Path, text: str):
    write(root, "opt/venv/settings.txt", text)
    assert look.findings(root, CONFIG) == ["/opt/venv/settings.txt holds a key"]


def test_a_text_about_keys_is_none(root: Path):
    write(
        root,
        "opt/venv/pem.py",
        'if line == "-----BEGIN PRIVATE KEY-----":\n    read(line, "hf_ is how tokens begin")\n',
    )
    assert look.findings(root, CONFIG) == []


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o4755, "/usr/bin/perl gives rights of its owner to whoever starts it"),
        (0o2755, "/usr/bin/perl gives rights of its owner to whoever starts it"),
        (0o666, "/usr/bin/perl can be written by everybody"),
    ],
)
def test_a_mode_that_gives_too_much(root: Path, mode: int, said: str):
    (root / "usr/bin/perl").chmod(mode)
    assert look.findings(root, CONFIG) == [said]


def test_a_folder_that_everybody_may_write(root: Path):
    (root / "usr").chmod(0o777)
    assert look.findings(root, CONFIG) == ["/usr/ can be written by everybody"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"User": ""}, "runs as 'root'"),
        ({"User": "0:0"}, "runs as '0:0'"),
        ({"User": "nobody"}, "runs as 'nobody'"),
        ({"Env": ["PIP_INDEX_URL=https://user:word@packages.example"]}, "keeps PIP_INDEX_URL in its environment"),
        ({"Env": ["HTTPS_PROXY=http://proxy.example"]}, "keeps HTTPS_PROXY in its environment"),
        ({"Env": ["HF_TOKEN=hf_x"]}, "keeps HF_TOKEN in its environment"),
        ({"Env": ["OTHER_GPG_KEY=x"]}, "keeps OTHER_GPG_KEY in its environment"),
        ({"Labels": LABELS | {"org.opencontainers.image.revision": ""}}, "has an empty label"),
        (
            {"Labels": {k: v for k, v in LABELS.items() if "source" not in k}},
            "has no label org.opencontainers.image.source",
        ),
    ],
)
def test_a_configuration_that_is_not_as_agreed(root: Path, change: dict[str, Any], said: str):
    (found,) = look.findings(root, CONFIG | change)
    assert found.startswith(said)


def test_a_key_that_a_package_prints_for_everybody_is_none(monkeypatch: pytest.MonkeyPatch):
    known, other = ("hf_" + letter * 34 for letter in "ab")
    monkeypatch.setattr(look, "_PUBLISHED", {hashlib.sha256(known.encode()).hexdigest()})
    assert not look.holds_key(f'TOKEN = "{known}"'.encode())
    assert look.holds_key(f'TOKEN = "{known}", "{other}"'.encode())
