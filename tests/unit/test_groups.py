"""Tests that share a deployment are run by one of pytest-xdist's processes."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("one-process")
def test_the_id_of_a_test_ends_in_its_group_where_groups_are_distributed(request: pytest.FixtureRequest) -> None:
    # pytest-xdist tells by the id what belongs together
    distributed = bool(getattr(request.config.option, "loadgroup", False))
    assert request.node.nodeid.endswith("@one-process") == distributed
