"""Certificates hold: signed by the authority, for the names they are asked by, keys for their owner alone."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from tests.cluster.certificates import Authority, write_kubeconfig


def read(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_a_certificate_names_user_groups_and_hosts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("kubelet", "system:node:a", ("system:nodes",), ("10.1.2.3", "a.example"))
    certificate = read(pair.certificate)
    certificate.verify_directly_issued_by(read(authority.pair.certificate))
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:a"
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]


def test_another_cluster_s_authority_did_not_sign_it(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate = read(ours.issue("admin", "admin").certificate)
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(read(theirs.pair.certificate))


def test_keys_and_kubeconfig_are_for_the_owner_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("admin", "admin")
    kubeconfig = tmp_path / "deep/kubeconfig"
    write_kubeconfig(kubeconfig, "https://10.1.2.3:6443", authority.pair, "admin", pair)
    assert {file.stat().st_mode & 0o777 for file in (authority.pair.key, pair.key, kubeconfig)} == {0o600}
    content = json.loads(kubeconfig.read_text())
    assert content["clusters"][0]["cluster"]["server"] == "https://10.1.2.3:6443"
    inside = base64.b64decode(content["users"][0]["user"]["client-certificate-data"])
    assert inside == pair.certificate.read_bytes()
