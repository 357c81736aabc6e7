"""One real Triton a session, serving the committed repository and, where ../shared is, real detectors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from detserve_builder.build import build
from detserve_client import Client
from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer import find_perf_analyzer
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.shared_data import FASTESTDET, SHARED, YOLO_FASTEST, YOLOX
from tests.ssd_checkpoints import save_ssd_checkpoints

CHECKOUT = Path(__file__).parents[2]
COMMITTED = CHECKOUT / "model_repository"
SAMPLES = CHECKOUT / "zoo/samples"
DEFAULT = "codes_yolo"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the real server."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed detectors, and real ones where they are at hand."""
    folder = tmp_path_factory.mktemp("live") / "repository"
    shutil.copytree(COMMITTED, folder)
    if SHARED.is_dir():
        build(str(YOLOX), name="yolox", repository=folder)
        build(str(FASTESTDET), name="fastestdet", repository=folder)
        build(str(YOLO_FASTEST), name="yolo_fastest", repository=folder)
        for name, (checkpoint, card) in save_ssd_checkpoints(tmp_path_factory.mktemp("ssd")).items():
            build(str(checkpoint), name=name, repository=folder, card_path=card)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[RunningServer]:
    """Started once; no test may stop it."""
    with embedded_server(repository) as running:
        yield running


@pytest.fixture(scope="session")
def perf_analyzer() -> None:
    """For tests that need perf_analyzer."""
    try:
        find_perf_analyzer()
    except MeasurementError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: RunningServer) -> str:
    """Both protocols."""
    return server.grpc_url if request.param == "grpc" else server.http_url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A client of the default detector."""
    with Client(url, DEFAULT) as connected:
        yield connected


@pytest.fixture
def sample() -> Path:
    """A picture the default detector finds something in."""
    return sorted(SAMPLES.glob("*.jpg"))[0]
