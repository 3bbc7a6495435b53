"""A web server as source, with all that servers do."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serving.fetch.source import SourceError
from serving.release import ReleaseError, verify_release
from tests.ports import free_port
from tests.serving.fetch.conftest import run
from tests.serving.fetch.places import MIB, Behaviour, FileServer, flip_bit, publish


def uri(server: FileServer, source) -> str:
    return f"{server.url}/releases/{source.name}"


def test_large_files_come_in_ranges(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    with FileServer(tmp_path) as server:
        fetched(uri(server, source), tmp_path / "here")
        asked = [wanted for name, wanted in server.requests if name.endswith("model.gguf")]
    assert len(asked) == 1 + 6  # a look, five whole ranges, 17 bytes
    assert f"bytes={5 * MIB}-{5 * MIB + 16}" in asked
    verify_release(tmp_path / "here")


@pytest.mark.parametrize("says_length", [True, False])
def test_a_server_that_ignores_ranges_is_read_in_one_stream_per_file(tmp_path, files, fetched, says_length):
    source = publish(tmp_path / "releases", files)
    with FileServer(tmp_path, Behaviour(ignores_ranges=True, says_length=says_length)) as server:
        events = fetched(uri(server, source), tmp_path / "here")
    assert verify_release(tmp_path / "here").digest == f"sha256:{source.name}"
    assert events[0]["total_bytes"] == (sum(map(len, files.values())) if says_length else None)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_refusals_are_asked_again(tmp_path, files, fetched, status):
    source = publish(tmp_path / "releases", files)
    plan = {"model.gguf": [status] * 3, "release.json": [status]}
    with FileServer(tmp_path, Behaviour(statuses=plan)) as server:
        events = fetched(uri(server, source), tmp_path / "here")
    verify_release(tmp_path / "here")
    retries = [event for event in events if event["event"] == "retry"]
    assert len(retries) == 4
    assert all(f"status {status}" in event["error"] for event in retries)


def test_retry_after_is_honoured_up_to_the_cap(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    with FileServer(tmp_path, Behaviour(statuses={"release.json": [503, 503]}, retry_after="30")) as server:
        started = time.monotonic()
        fetched(uri(server, source), tmp_path / "here", backoff_cap_seconds=0.2)
    assert time.monotonic() - started >= 0.4


def test_a_server_that_stays_away_ends_in_words_and_code_3(tmp_path, files):
    source = publish(tmp_path / "releases", files)
    with FileServer(tmp_path, Behaviour(statuses={"model.gguf": [503] * 99})) as server:
        ended = run(uri(server, source), tmp_path / "here")
    assert (ended.code, "model.gguf: status 503 Service Unavailable (5 attempts)" in ended.error) == (3, True), (
        ended.error
    )


def test_nobody_listens(tmp_path):
    ended = run(f"http://127.0.0.1:{free_port()}/{'a' * 64}", tmp_path / "here", retries=1)
    assert (ended.code, "release.json: " in ended.error, "(2 attempts)" in ended.error) == (3, True, True)


def test_a_cut_stream_goes_on_where_it_broke(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    with FileServer(tmp_path, Behaviour(truncated={"exactly-one-range.bin": [300_000, 500_000, 0]})) as server:
        events = fetched(uri(server, source), tmp_path / "here")
        name = f"releases/{source.name}/exactly-one-range.bin"
        assert server.sent[name] - 1 == MIB  # nothing came twice; 1: the first look
    assert sum(event["event"] == "retry" for event in events) == 3
    verify_release(tmp_path / "here")


def test_a_cut_stream_without_ranges_starts_again(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    plan = Behaviour(truncated={"model.gguf": [0, 2 * MIB]}, ignores_ranges=True)
    with FileServer(tmp_path, plan) as server:
        fetched(uri(server, source), tmp_path / "here")
    verify_release(tmp_path / "here")


@pytest.mark.parametrize("said", ["bytes {start}-{last}/*", ""])
def test_a_server_that_does_not_say_how_long_a_file_is(tmp_path, files, fetched, said):
    """RFC 9110, 14.4, allows the first."""
    source = publish(tmp_path / "releases", files)
    with FileServer(tmp_path, Behaviour(content_range=said)) as server:
        fetched(uri(server, source), tmp_path / "here")
    verify_release(tmp_path / "here")


def test_a_cut_without_length_is_found_by_the_hash(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    plan = Behaviour(truncated={"model.gguf": [MIB, MIB]}, ignores_ranges=True, says_length=False)
    with FileServer(tmp_path, plan) as server, pytest.raises(ReleaseError, match=r"model\.gguf has sha256"):
        fetched(uri(server, source), tmp_path / "here")


def test_a_silent_server_is_given_up(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    with (
        FileServer(tmp_path, Behaviour(seconds_per_64_kib=2)) as server,
        pytest.raises(SourceError, match="2 attempts"),
    ):
        fetched(uri(server, source), tmp_path / "here", stall_seconds=0.2, retries=1)


def test_a_flipped_bit_and_a_missing_file_are_refused_by_name(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    flip_bit(source / "tokenizer/größe #1%20.json", 10)
    with FileServer(tmp_path) as server:
        with pytest.raises(ReleaseError, match=r"tokenizer/größe #1%20\.json has sha256"):
            fetched(uri(server, source), tmp_path / "here")
        (source / "empty").unlink()
        with pytest.raises(ReleaseError, match=r"^empty is missing"):
            fetched(uri(server, source), tmp_path / "there")


def test_a_file_that_goes_away_meanwhile_is_named(tmp_path, files):
    source = publish(tmp_path / "releases", files)
    # Each file is looked at first; the second answer is the one to its first range.
    with FileServer(tmp_path, Behaviour(statuses={"model.gguf": [0, 404]})) as server:
        ended = run(uri(server, source), tmp_path / "here")
    assert (ended.code, ended.error.endswith("refused: model.gguf is missing")) == (1, True), ended.error


def self_signed(folder) -> tuple[str, str]:
    """Certificate and key of 127.0.0.1 in one PEM file, and the certificate alone as cabundle.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(public + private)
    (folder / "cabundle.crt").write_bytes(public)
    return str(folder / "server.pem"), str(folder)


def test_tls_with_the_authorities_that_kserve_mounts(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    pem, mount = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = FileServer(tmp_path)
    server.socket.socket = context.wrap_socket(server.socket.socket, server_side=True)
    with server:
        secure = uri(server, source).replace("http:", "https:")
        fetched(secure, tmp_path / "here", authorities_mount=mount)
        with pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"):
            fetched(secure, tmp_path / "there", retries=0)
    verify_release(tmp_path / "here")
