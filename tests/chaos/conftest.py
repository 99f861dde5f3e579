"""The chaos tests use the integration tests' deployments, with the crash points loaded into the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos.points import MARKS
from tests.integration.conftest import _settings_of_nobody, make, pytest_runtest_makereport
from tests.integration.fleet import CHECKOUT, FAST, Deployment

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["_settings_of_nobody", "fragile", "make", "pytest_runtest_makereport"]

PATIENT: Final = FAST | {"max_attempts": 50}
"""A parent that dies takes its other steps along, so that a step may be begun more often than its own deaths say."""


@pytest.fixture
def fragile(make: Callable[..., Deployment], tmp_path: pytest.TempPathFactory) -> Callable[..., Deployment]:
    """Make deployments whose workers die where a run asks for it: see `crashpoints`."""

    def new(kind: str = "valkey", **options: object) -> Deployment:
        deployment: Deployment = make(
            kind,
            **{
                "settings": PATIENT,
                "agents": ("acme.flows", "tests.chaos.crashpoints"),
                "path": (CHECKOUT,),
                "env": {MARKS: str(tmp_path)},
                **options,
            },
        )
        return deployment

    return new
