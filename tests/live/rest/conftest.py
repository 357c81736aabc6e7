"""One service in front of the one Triton of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from detserve_server.triton.embedded import RunningServer
from tests.live.rest.rest_server import Rest, running_rest


@pytest.fixture(scope="session")
def rest(server: RunningServer) -> Iterator[Rest]:
    """Started once; no test may stop it."""
    with running_rest(server.http_url, "--deepstack-model", "codes_yolo", "--allow-urls") as running:
        yield running
