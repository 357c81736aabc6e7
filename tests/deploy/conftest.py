"""Fixtures of the tests of deploy/."""

from __future__ import annotations

import pytest

from tests.deploy.kubernetes import Object, render


@pytest.fixture(scope="session")
def rendered() -> dict[str, list[Object]]:
    """deploy/kubernetes as kustomize renders it; to be read only."""
    return render()
