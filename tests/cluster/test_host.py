"""What this machine lacks is said in words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cluster import host


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux machine with root's rights and no programs at all."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "absent_rights", list)
    monkeypatch.setattr(host, "PACKAGES", {name: str(tmp_path / name) for name in host.PACKAGES})
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, says: str = "") -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


def test_another_system_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host.missing(True, True) == ["Linux (this is darwin); run it in a Linux virtual machine"]


def test_no_root_no_debian_no_go(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    root, packages, go = host.missing(needs_go=True, needs_compiler=True)
    assert root.startswith("root: ") and "sudo -E make cluster" in root
    assert all(package in packages for package in (*host.PACKAGES, "gcc"))
    assert "(none found)" in go and "https://go.dev/dl/" in go


def test_debian_s_packages_are_not_missing_where_they_can_be_installed(bare: Path) -> None:
    program(bare, "apt-get")
    assert host.missing(needs_go=False, needs_compiler=True) == []


def test_an_old_go_is_named(bare: Path) -> None:
    program(bare, "apt-get")
    program(bare, "go", says="go1.19.8")
    [go] = host.missing(needs_go=True, needs_compiler=False)
    assert "(1.19 found)" in go
    program(bare, "go", says="go1.26.1-X:nodwarf5")
    assert host.missing(needs_go=True, needs_compiler=False) == []


def test_binaries_from_the_cache_need_no_go(bare: Path) -> None:
    program(bare, "apt-get")
    assert host.missing(needs_go=False, needs_compiler=False) == []


def test_root_without_rights_is_told_apart(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "apt-get")
    monkeypatch.setattr(host, "absent_rights", lambda: ["CAP_NET_ADMIN"])
    [rights] = host.missing(needs_go=False, needs_compiler=False)
    assert rights.startswith("CAP_NET_ADMIN: ") and "privileged" in rights


def test_a_failed_installation_says_what_apt_said(bare: Path) -> None:
    (bare / "apt-get").write_text("#!/bin/sh\necho 'E: no such archive' >&2\nexit 100\n")
    (bare / "apt-get").chmod(0o755)
    with pytest.raises(host.ClusterError, match="E: no such archive"):
        host.install_packages(needs_compiler=False)


def test_each_firewall_rule_carries_the_node_s_name_so_that_it_is_found_again() -> None:
    for rule in host._rules():
        assert host._command("-A", rule)[-1] == "slipway-cluster"
