"""promtool is found where it was built; without it, tests say why and how it comes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.monitoring import promtool


@pytest.fixture
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without promtool, and nothing remembered of the other one."""
    promtool.program.cache_clear()
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
    monkeypatch.delenv("SLIPWAY_MONITORING", raising=False)


def test_version_is_the_modules() -> None:
    assert f"github.com/prometheus/prometheus v{promtool.version()}" in (promtool.MODULES / "go.mod").read_text()
    assert f"github.com/prometheus/prometheus v{promtool.version()} h1:" in (promtool.MODULES / "go.sum").read_text()


def test_missing_is_a_reason(nothing_built: None) -> None:
    with pytest.raises(pytest.skip.Exception, match="make monitoring-test"):
        promtool.program()


def test_missing_is_a_failure_where_it_is_required(nothing_built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_MONITORING", "required")
    with pytest.raises(pytest.fail.Exception, match="required, but promtool is not at"):
        promtool.program()


def test_off_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    promtool.program.cache_clear()
    monkeypatch.setenv("SLIPWAY_MONITORING", "off")
    with pytest.raises(pytest.skip.Exception, match="off"):
        promtool.program()


def test_without_go_the_build_says_so(nothing_built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="Go, which builds it, is not installed"):
        promtool.build()


def test_it_is_of_the_pinned_version() -> None:
    promtool.program.cache_clear()
    told = subprocess.run([promtool.program(), "--version"], capture_output=True, text=True, check=True)

    assert "remove_all_sd" in told.stdout
