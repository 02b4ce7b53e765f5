"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples at every run, and none refused because the machine was slow to draw them.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The source tree."""
    return ROOT


@pytest.fixture(scope="session")
def external_data() -> Path:
    """The folder named by GRAPHS_EXTERNAL_DATA; tests that need it skip with the reason when it is unset."""
    folder = os.environ.get("GRAPHS_EXTERNAL_DATA")
    if not folder:
        pytest.skip("GRAPHS_EXTERNAL_DATA is not set: data sets of other projects are not committed")
    return Path(folder)
