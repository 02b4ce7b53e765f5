"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes is the machine's business: no test may fail for it.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


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
