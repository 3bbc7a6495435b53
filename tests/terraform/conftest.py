"""One copy of terraform/ for the tests that leave it as it is."""

from __future__ import annotations

import os

import pytest

from tests.terraform import workspace


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> workspace.Workspace:
    return workspace.copy(tmp_path_factory.mktemp("session") / "terraform")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the offline schema left unchecked."""
    if os.environ.get("SLIPWAY_TERRAFORM_SCHEMA"):
        terminalreporter.write_sep("-", "terraform offline")
        terminalreporter.write_line(workspace.OFFLINE_LIMITS)
        for argument, since in workspace.UNCHECKED.items():
            terminalreporter.write_line(f"unchecked: {argument} (google {since})")
        if not workspace.UNCHECKED:
            terminalreporter.write_line("unchecked arguments: none; all that is used stands in the schema of 6.50")
