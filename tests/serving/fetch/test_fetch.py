"""What every kind of source has in common, seen on a folder and, where an answer has to go wrong, on a web server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from serving.fetch.partial import PARTIAL_FOLDER
from serving.release import ReleaseError, file_sha256, verify_release
from tests.serving.fetch.conftest import command, environment, run
from tests.serving.fetch.places import MIB, Behaviour, FileServer, flip_bit, noise, publish, release_of


def test_a_release_arrives_whole(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    events = fetched(source, tmp_path / "here")
    assert verify_release(tmp_path / "here").digest == f"sha256:{source.name}"
    assert not (tmp_path / "here" / PARTIAL_FOLDER).exists()
    total = sum(map(len, files.values()))
    assert [event["event"] for event in events] == ["start", "done"]
    assert (events[0]["total_bytes"], events[0]["resumed_bytes"], events[1]["fetched_bytes"]) == (total, 0, total)


def test_a_second_fetch_finds_it_there(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    fetched(source, tmp_path / "here")
    for path in source.rglob("*"):  # nothing is asked of the source again
        path.unlink(missing_ok=True) if path.is_file() else None
    assert [event["event"] for event in fetched(source, tmp_path / "here")] == ["there already"]


def test_a_damaged_destination_is_mended(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    fetched(source, tmp_path / "here")
    flip_bit(tmp_path / "here/model.gguf", MIB)
    events = fetched(source, tmp_path / "here")
    assert verify_release(tmp_path / "here").digest == f"sha256:{source.name}"
    assert events[-1]["fetched_bytes"] == len(files["model.gguf"])


def test_another_release_in_the_destination_is_refused_and_left(tmp_path, files, fetched):
    fetched(publish(tmp_path / "releases", files), tmp_path / "here")
    other = publish(tmp_path / "releases", files | {"empty": b"no more"})
    with pytest.raises(ReleaseError, match="holds the release sha256"):
        fetched(other, tmp_path / "here")
    verify_release(tmp_path / "here")


def test_a_file_of_somebody_else_in_the_destination_is_refused_by_name(tmp_path, files, fetched):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/notes.txt").write_text("mine")
    with pytest.raises(ReleaseError, match=r"holds notes\.txt"):
        fetched(publish(tmp_path / "releases", files), tmp_path / "here")


def test_a_flipped_bit_is_refused_by_name(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    flip_bit(source / "model.gguf", 3 * MIB)
    with pytest.raises(ReleaseError, match=r"model\.gguf has sha256 [0-9a-f]{64}, the release says"):
        fetched(source, tmp_path / "here")
    assert not (tmp_path / "here/release.json").exists()
    assert not (tmp_path / "here/model.gguf").exists()


def test_a_refused_file_is_asked_for_again_after_a_restart(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    flip_bit(source / "model.gguf", 3 * MIB)
    with pytest.raises(ReleaseError):
        fetched(source, tmp_path / "here")
    flip_bit(source / "model.gguf", 3 * MIB)
    fetched(source, tmp_path / "here")
    verify_release(tmp_path / "here")


@pytest.mark.parametrize("grown", [-1, 1])
def test_another_size_is_refused_by_name(tmp_path, files, fetched, grown):
    source = publish(tmp_path / "releases", files)
    content = files["model.gguf"]
    (source / "model.gguf").write_bytes(content[:-1] if grown < 0 else content + b"x")
    with pytest.raises(ReleaseError, match=r"model\.gguf has sha256"):
        fetched(source, tmp_path / "here")


def test_a_missing_file_is_refused_by_name_before_anything_comes(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    (source / "model.gguf").unlink()
    with pytest.raises(ReleaseError, match=r"^model\.gguf is missing"):
        fetched(source, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_extra_files_are_refused_by_name(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    for name in ("b.bin", "a/x.py", "c", "d", "e"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("?")
    with pytest.raises(ReleaseError, match=r"^a/x\.py, b\.bin, c and 2 more are not part of the release"):
        fetched(source, tmp_path / "here")


def test_the_digest_is_compared_before_anything_else_is_read(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    asked = source.rename(tmp_path / "releases" / ("0" * 64))
    with FileServer(tmp_path) as server:
        with pytest.raises(ReleaseError, match=rf"digest sha256:{source.name}, not sha256:{'0' * 64} as the URI says"):
            fetched(f"{server.url}/releases/{asked.name}", tmp_path / "here")
        assert [name for name, _ in server.requests] == [f"releases/{asked.name}/release.json"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "./a", "", "a\\b", "a\nb", ".fetch/journal"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, fetched, name):
    release = release_of({name: b"x"})
    source = tmp_path / "releases" / release.digest.removeprefix("sha256:")
    source.mkdir(parents=True)
    (source / "release.json").write_bytes(release.canonical())
    with pytest.raises(ReleaseError, match=r"release\.json names '.*', which is"
                       if name not in ("a\\b", "a\nb") else "has a character"):  # fmt: skip
        fetched(source, tmp_path / "here")
    assert not (tmp_path / "x").exists()


def test_a_huge_manifest_is_refused_while_it_comes(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    with (source / "release.json").open("ab") as file:
        file.truncate(64 * MIB)
    with FileServer(tmp_path) as server:
        with pytest.raises(ReleaseError, match=r"release\.json is larger than 8388608 bytes"):
            fetched(f"{server.url}/releases/{source.name}", tmp_path / "here")
        assert server.sent[f"releases/{source.name}/release.json"] < 32 * MIB


def test_no_manifest(tmp_path):
    (tmp_path / ("a" * 64)).mkdir()
    ended = run(tmp_path / ("a" * 64), tmp_path / "here")
    assert (ended.code, ended.error.endswith("refused: not a release: it has no release.json")) == (1, True)


def kill_half_way(uri: str, destination: Path, number: signal.Signals, **settings: object) -> int:
    """Start a fetch, end it once some ranges are written; its exit code."""
    process = subprocess.Popen(command(uri, destination), env=environment(**settings), stdout=subprocess.DEVNULL)
    journal = destination / PARTIAL_FOLDER / "journal"
    deadline = time.monotonic() + 30
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        assert process.poll() is None and time.monotonic() < deadline, "the fetch ended, or wrote nothing"
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(timeout=10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_fetch_goes_on_where_it_was(tmp_path, number, code):
    content = noise(12 * MIB)
    source = publish(tmp_path / "releases", {"model.gguf": content, "small": b"x"})
    with FileServer(tmp_path, Behaviour(seconds_per_64_kib=0.01)) as server:
        uri = f"{server.url}/releases/{source.name}"
        assert kill_half_way(uri, tmp_path / "here", number, streams=2) == code
        assert not (tmp_path / "here/release.json").exists()
    # Another server, since the first one may still hear of requests that the killed process made.
    with FileServer(tmp_path) as server:
        ended = run(f"{server.url}/releases/{source.name}", tmp_path / "here")
        assert ended.code == 0, ended.error
        resumed = ended.told("start")[0]["resumed_bytes"]
        assert resumed >= 2 * MIB
        spans = [wanted.removeprefix("bytes=").split("-") for _, wanted in server.requests if wanted]
        asked = sum(int(last) + 1 - int(first) for first, last in spans)
        assert asked == len(content) + len("x") - resumed + 2  # each file's first byte was looked at
    assert verify_release(tmp_path / "here").digest == f"sha256:{source.name}"


def test_what_a_kill_left_is_believed_only_after_its_hash(tmp_path):
    source = publish(tmp_path / "releases", {"model.gguf": noise(12 * MIB)})
    with FileServer(tmp_path, Behaviour(seconds_per_64_kib=0.01)) as server:
        uri = f"{server.url}/releases/{source.name}"
        kill_half_way(uri, tmp_path / "here", signal.SIGKILL, streams=2)
        journal = (tmp_path / "here" / PARTIAL_FOLDER / "journal").read_text().splitlines()
        flip_bit(tmp_path / "here" / PARTIAL_FOLDER / "files/model.gguf", int(journal[1].split()[0]))
        server.behaviour.seconds_per_64_kib = 0
        ended = run(uri, tmp_path / "here")
    assert (ended.code, [event["name"] for event in ended.told("fetched anew")]) == (0, ["model.gguf"])
    verify_release(tmp_path / "here")


def test_a_kill_between_the_moves_is_mended(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    fetched(source, tmp_path / "here")
    (tmp_path / "here/release.json").unlink()
    (tmp_path / "here/empty").unlink()
    assert fetched(source, tmp_path / "here")[-1]["fetched_bytes"] == 0
    verify_release(tmp_path / "here")


def test_a_release_json_stands_only_beside_whole_files(tmp_path):
    """Watched from outside during a slow fetch: as soon as it is there, everything is."""
    source = publish(tmp_path / "releases", {f"shard-{i}": noise(MIB, i) for i in range(4)})
    with FileServer(tmp_path, Behaviour(seconds_per_64_kib=0.005)) as server:
        uri = f"{server.url}/releases/{source.name}"
        process = subprocess.Popen(command(uri, tmp_path / "here"), env=environment(), stdout=subprocess.DEVNULL)
        while not (tmp_path / "here/release.json").exists():
            # it may end between the two looks
            assert process.poll() is None or (tmp_path / "here/release.json").exists()
            time.sleep(0.002)
        assert all((tmp_path / f"here/shard-{i}").stat().st_size == MIB for i in range(4))
        assert process.wait(timeout=10) == 0


def test_progress_has_rate_and_what_is_left(tmp_path):
    source = publish(tmp_path / "releases", {"model.gguf": noise(8 * MIB)})
    with FileServer(tmp_path, Behaviour(seconds_per_64_kib=0.02)) as server:
        uri = f"{server.url}/releases/{source.name}"
        ended = run(uri, tmp_path / "here", streams=2, progress_seconds=0.1)
    lines = ended.told("progress")
    assert [line["bytes"] for line in lines] == sorted(line["bytes"] for line in lines)
    middle = lines[len(lines) // 2]
    assert middle["total_bytes"] == 8 * MIB
    left = (middle["total_bytes"] - middle["bytes"]) / middle["bytes_per_second"]
    assert middle["eta_seconds"] == pytest.approx(left, abs=0.1)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small file system needs root: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_small_volume_is_told_before_anything_comes(tmp_path, small_disk):
    source = publish(tmp_path / "releases", {"model.gguf": noise(5 * MIB)})
    ended = run(source, small_disk / "here")
    assert ended.code == 4
    assert "no room: 5242880 bytes are to be fetched, " in ended.error
    assert ended.error.endswith("are free; give the volume more room")


def test_a_volume_that_fills_up_is_told(tmp_path, small_disk):
    """The server does not say how much it will be."""
    source = publish(tmp_path / "releases", {"model.gguf": noise(5 * MIB)})
    with FileServer(tmp_path, Behaviour(ignores_ranges=True, says_length=False)) as server:
        ended = run(f"{server.url}/releases/{source.name}", small_disk / "here")
    assert (ended.code, "no room: No space left on device" in ended.error) == (4, True), ended.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_destination_is_told(tmp_path, files):
    (tmp_path / "here").mkdir(mode=0o500)
    ended = run(publish(tmp_path / "releases", files), tmp_path / "here")
    assert (ended.code, "cannot be written: Permission denied" in ended.error) == (4, True)


def test_a_destination_below_a_file_is_told(tmp_path, files):
    (tmp_path / "file").write_text("")
    ended = run(publish(tmp_path / "releases", files), tmp_path / "file/here")
    assert (ended.code, "cannot be written: Not a directory" in ended.error) == (4, True), ended.error


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gs://bucket/latest", "does not end with the 64 hexadecimal digits"),
        (f"hf://org/{'a' * 64}", "is none of gs://"),
        (f"https://me:secret@host/{'a' * 64}", "has a query, a fragment or a password"),
    ],
)
def test_a_uri_that_names_no_release_is_wrong_usage(tmp_path, uri, words):
    ended = run(uri, tmp_path / "here")
    assert (ended.code, words in ended.error) == (2, True), ended.error
    assert "secret" not in ended.error


def test_the_command_line_takes_one_pair(tmp_path):
    """KServe passes several pairs for several storage URIs; a server has one release."""
    ended = subprocess.run([*command("/a", tmp_path), "/b", "/c"], env=environment(), capture_output=True, text=True)
    assert (ended.returncode, "unrecognized arguments: /b /c" in ended.stderr) == (2, True)


def test_the_same_files_arrive_from_a_volume(tmp_path, files, fetched, monkeypatch):
    """pvc://CLAIM/PATH reads where the claim is mounted."""
    monkeypatch.setattr("serving.fetch.source.PVC_MOUNT", str(tmp_path / "mounted"))
    source = publish(tmp_path / "mounted/models", files)
    fetched(f"pvc://claim/models/{source.name}", tmp_path / "here")
    fetched(f"file://{source}", tmp_path / "there")
    assert file_sha256(tmp_path / "here/model.gguf") == file_sha256(tmp_path / "there/model.gguf")
