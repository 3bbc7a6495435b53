import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.release import (
    GoldenAnswer,
    Origin,
    Release,
    ReleaseError,
    ServingForm,
    payload_files,
    read_golden,
    read_release,
    verify_release,
)

GOLDEN = GoldenAnswer(
    messages=[{"role": "user", "content": "Wie viel? 電気"}],
    prompt_token_ids=[1, 5],
    token_ids=[7, 2],
    gaps=[0.5, 1.25],
)


@pytest.fixture
def release(tmp_path) -> Path:
    """A release directory with a nested file; engines would find nothing to load in it."""
    directory = tmp_path / "release"
    (directory / "more").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "more" / "notes.txt").write_text("notes")
    (directory / "system_prompt.txt").write_text("Grüße")
    (directory / "golden.json").write_text(json.dumps([GOLDEN.model_dump()], ensure_ascii=False))
    (directory / "release.json").write_bytes(manifest(files=payload_files(directory)).canonical())
    return directory


def manifest(**changes) -> Release:
    fields = {
        "serving": ServingForm(),
        "base": Origin(source="hub:owner/tiny", revision="f" * 40, licence="Apache-2.0", digest="sha256:" + "a" * 64),
        "data_digest": "d" * 64,
        "context_length": 512,
        "end_token_ids": [2, 0],
        "files": {"config.json": "0" * 64},
    }
    return Release(**fields | changes)


# --- the digest --------------------------------------------------------------------------------------------------


def test_the_digest_is_the_sha256_of_canonical_bytes():
    release = manifest(base=Origin(source="Köln", digest="0"))
    expected = (
        '{"base":{"digest":"0","licence":"","revision":"","source":"Köln"},"context_length":512,'
        f'"data_digest":"{"d" * 64}","end_token_ids":[2,0],"files":{{"config.json":"{"0" * 64}"}},'
        '"serving":{"engine":"openvino","precision":"q8_0"},"version":1}'
    )
    assert release.canonical() == expected.encode()
    assert release.digest == "sha256:" + hashlib.sha256(expected.encode()).hexdigest()


def test_the_digest_is_of_the_content_and_not_of_the_files_spelling(release):
    digest = read_release(release).digest
    fields = json.loads((release / "release.json").read_bytes())
    spelled = json.dumps(dict(reversed(fields.items())), indent=4, ensure_ascii=True)
    (release / "release.json").write_text(spelled)
    assert read_release(release).digest == digest


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": ServingForm(precision="f16")},
        {"base": Origin(source="hub:owner/tiny", digest="sha256:" + "b" * 64)},
        {"data_digest": "e" * 64},
        {"context_length": 513},
        {"end_token_ids": [0, 2]},
        {"files": {"config.json": "1" * 64}},
        {"files": {"config.jsom": "0" * 64}},
        {"files": {}},
    ],
)
def test_every_field_enters_the_digest(changes):
    assert manifest(**changes).digest != manifest().digest


# --- the schema --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "precision", "form"),
    [
        ("openvino", "q8_0", "gguf"),
        ("openvino", "f16", "gguf"),
        ("transformers", "f16", "safetensors"),
        ("transformers", "bf16", "safetensors"),
        ("transformers", "f32", "safetensors"),
        ("vllm", "bf16", "safetensors"),
    ],
)
def test_the_engine_decides_the_form(engine, precision, form):
    assert ServingForm(engine=engine, precision=precision).form == form


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "f32"), ("openvino", "bf16"), ("vllm", "q8_0")])
def test_a_precision_that_the_engine_does_not_read_is_refused(engine, precision):
    with pytest.raises(ValidationError, match=f"engine {engine} cannot serve precision {precision}; choose one of "):
        ServingForm(engine=engine, precision=precision)


def test_a_release_cannot_be_changed_or_extended():
    with pytest.raises(ValidationError, match="frozen"):
        manifest().context_length = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        manifest(score=1)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        manifest(context_length=0)


# --- reading -----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(release):
    read = read_release(release)
    assert read == manifest(files=payload_files(release))
    assert read_golden(release) == [GOLDEN]


def test_a_directory_that_is_no_release_is_named(tmp_path, release):
    for path in (tmp_path / "nowhere", tmp_path, release / "config.json"):
        with pytest.raises(ReleaseError, match=r"is not a release: it has no release\.json") as refused:
            read_release(path)
        assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"version": 1}', b"\xff\xfe"], ids=["empty", "list", "half", "fields missing", "binary"]
)
def test_a_manifest_that_cannot_be_read_is_named(release, text):
    (release / "release.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ReleaseError, match=r"release\.json is not a release manifest: "):
        read_release(release)


@pytest.mark.parametrize("change", [{"version": 2}, {"extra": 1}, {"context_length": "many"}])
def test_a_manifest_of_another_shape_is_refused(release, change):
    fields = json.loads((release / "release.json").read_bytes())
    (release / "release.json").write_text(json.dumps(fields | change))
    with pytest.raises(ReleaseError, match=next(iter(change))):
        read_release(release)


# --- verifying ---------------------------------------------------------------------------------------------------


def test_payload_files_are_all_files_but_the_manifest(release):
    assert payload_files(release) == {
        "config.json": hashlib.sha256(b"{}").hexdigest(),
        "golden.json": hashlib.sha256((release / "golden.json").read_bytes()).hexdigest(),
        "more/notes.txt": hashlib.sha256(b"notes").hexdigest(),
        "system_prompt.txt": hashlib.sha256("Grüße".encode()).hexdigest(),
    }


def test_an_untouched_release_verifies(release):
    assert verify_release(release) == read_release(release)


@pytest.mark.parametrize("name", ["config.json", "golden.json", "more/notes.txt", "system_prompt.txt"])
def test_an_edited_file_is_named(release, name):
    content = bytearray((release / name).read_bytes())
    content[-1] ^= 1  # the size stays
    (release / name).write_bytes(bytes(content))
    with pytest.raises(ReleaseError, match=f"{name} has sha256 [0-9a-f]{{64}}, the release says [0-9a-f]{{64}}"):
        verify_release(release)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "more/second.txt", "more/release.json", ".hidden"])
def test_an_extra_file_is_named(release, name):
    (release / name).write_text("extra")
    with pytest.raises(ReleaseError, match=f"{name} is not part of the release"):
        verify_release(release)


@pytest.mark.parametrize("name", ["config.json", "more/notes.txt"])
def test_a_missing_file_is_named(release, name):
    (release / name).unlink()
    with pytest.raises(ReleaseError, match=f"{name} is missing"):
        verify_release(release)


def test_of_several_faults_the_first_by_name_is_named(release):
    (release / "system_prompt.txt").write_text("another")
    (release / "golden.json").unlink()
    with pytest.raises(ReleaseError, match=r"golden\.json is missing"):
        verify_release(release)


def test_a_manifest_cannot_point_outside(release):
    outside = release.parent / "outside.txt"
    outside.write_text("outside")
    files = payload_files(release) | {"../outside.txt": hashlib.sha256(b"outside").hexdigest()}
    (release / "release.json").write_bytes(manifest(files=files).canonical())
    with pytest.raises(ReleaseError, match=r"\.\./outside\.txt is missing"):
        verify_release(release)
