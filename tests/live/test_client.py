"""Both clients against the real server: streams, cancellation, shared memory, a server that is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from detserve_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FrameTransfer,
    Outcome,
    Overloaded,
)
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.conftest import COMMITTED, DEFAULT
from tests.live.echo_repository import NAME, write_echo_repository

SHM = Path("/dev/shm")


@pytest.fixture(scope="module")
def echo_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo_repository(tmp_path_factory.mktemp("echo"))


@pytest.fixture(scope="module")
def echo(echo_repository: Path) -> Iterator[RunningServer]:
    with embedded_server(echo_repository, allow_shared_memory=True) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def echo_url(request: pytest.FixtureRequest, echo: RunningServer) -> str:
    return echo.grpc_url if request.param == "grpc" else echo.http_url


def numbers(outcomes: list[Outcome]) -> list[int]:
    return [int(outcome.get().boxes[0, 0]) for outcome in outcomes]


def frames(count: int) -> list[np.ndarray]:
    """Frames of different widths, which echo gives back."""
    return [np.full((40, 1 + index, 3), index % 251, np.uint8) for index in range(count)]


def regions(url: str) -> list[str]:
    with Client(url, NAME) as client:
        return client._transport.shared_regions(5)


def names_in_shm(pid: int | None = None) -> list[str]:
    """What a process has there, this one by default."""
    return sorted(path.name for path in SHM.glob(f"detserve-client-*-{pid or os.getpid()}-*"))


async def streamed(url: str, pictures: list, **options) -> list[Outcome]:
    async with AsyncClient(url, NAME) as client:
        return [outcome async for outcome in client.detect_stream(pictures, **options)]


@pytest.mark.parametrize("ordered", [True, False])
def test_every_answer_belongs_to_its_picture(echo_url: str, ordered: bool) -> None:
    pictures = [b"%d" % number for number in range(300)]
    with Client(echo_url, NAME) as client:
        threaded = list(client.detect_stream(pictures, window=16, ordered=ordered))
        batched = client.detect_batch(pictures)
    looped = asyncio.run(streamed(echo_url, pictures, window=16, ordered=ordered))
    for outcomes in (threaded, looped):
        assert numbers(outcomes) == [outcome.index for outcome in outcomes]
        assert sorted(numbers(outcomes)) == list(range(300))
        assert not ordered or numbers(outcomes) == list(range(300))
    assert numbers(batched) == list(range(300))


def test_both_clients_agree_on_a_real_picture(url: str, client: Client, sample: Path) -> None:
    pixels = cv2.imread(str(sample))

    async def go() -> None:
        async with AsyncClient(url, DEFAULT) as looped:
            assert await looped.card() == client.card()
            assert await looped.detect(sample) == client.detect(sample)
            assert await looped.detect(pixels) == client.detect(pixels)
            found = await looped.detect_batch([sample, b"no picture", str(sample)])
            assert found[0].get() == found[2].get() == client.detect(sample)
            assert "not a JPEG" in str(found[1].error)

    asyncio.run(go())


def executed(server: RunningServer) -> tuple[float, float]:
    """How many requests echo's step has run, and how many were cancelled or dropped from its queue."""
    text = urllib.request.urlopen(server.metrics_url).read().decode()  # noqa: S310
    ran = dropped = 0.0
    for line in text.splitlines():
        if f'model="{NAME}_step"' in line:
            if line.startswith("nv_inference_request_success"):
                ran += float(line.split()[-1])
            elif line.startswith("nv_inference_request_failure"):
                dropped += float(line.split()[-1])
    return ran, dropped


def test_a_deadline_cancels_on_the_server(echo: RunningServer, echo_url: str) -> None:
    with Client(echo_url, NAME) as client:
        client.card()
        ran, dropped = executed(echo)
        slow = [b"%d 300" % number for number in range(24)]
        outcomes = list(client.detect_stream(slow, window=24, timeout_s=0.4))
        assert sum(isinstance(outcome.error, DeadlineExceeded) for outcome in outcomes) >= 20
        assert numbers([*client.detect_stream([b"99"])]) == [99]
    ran_now, dropped_now = executed(echo)
    assert ran_now - ran <= 12  # one batch of 8 had begun
    assert dropped_now - dropped >= 10


def pipeline_queue(server: RunningServer) -> dict[str, float]:
    """What the default detector's pipeline tells of its queue: pictures, taken_total, refused_total, ..."""
    text = urllib.request.urlopen(server.metrics_url).read().decode()  # noqa: S310
    line = rf'^detserve_queue_(\w+){{model="{DEFAULT}"(?:,process="[^"]*")?}} (\S+)$'
    return {name: float(value) for name, value in re.findall(line, text, re.MULTILINE)}


def test_the_default_detector_drops_what_waits_past_its_deadline(server: RunningServer, url: str) -> None:
    """Fewer than the queue holds, so that none is refused for its length."""
    count = 28
    slow = cv2.imencode(".png", np.zeros((4000, 5000, 3), np.uint8))[1].tobytes()
    with Client(url, DEFAULT) as client:
        client.card()
        before = pipeline_queue(server)
        outcomes = list(client.detect_stream([slow] * count, window=count, timeout_s=0.2))
        late = [one for one in outcomes if isinstance(one.error, DeadlineExceeded | Overloaded)]
        assert [str(one.error) for one in outcomes if one.error is not None and one not in late] == []
        assert len(late) >= count / 2
        assert len(client.detect_batch([slow])) == 1, "the queue behind it is empty again"
    ends_s = time.monotonic() + 5
    while (after := pipeline_queue(server))["taken_total"] <= before["taken_total"]:
        assert time.monotonic() < ends_s, "the pipeline reports once a second"
        time.sleep(0.2)
    time.sleep(1.5)
    after = pipeline_queue(server)
    assert after["refused_total"] - before["refused_total"] >= count / 2
    assert after["pictures"] == 0


def test_leaving_a_stream_ends_its_requests_and_threads(echo: RunningServer, echo_url: str) -> None:
    with Client(echo_url, NAME) as client:
        client.card()
        pictures = [b"0", *(b"%d 200" % number for number in range(1, 60))]
        stream = client.detect_stream(pictures, window=32, ordered=False)
        next(stream)
        ran, _ = executed(echo)
        stream.close()
        assert executed(echo)[0] - ran < 24, "closing does not wait for what is in flight"
        workers = [thread.name for thread in threading.enumerate() if thread.name.startswith("detserve-")]
        assert set(workers) <= {"detserve-gateway-watch"}  # another test's


def test_frames_travel_by_shared_memory_where_it_is_allowed(echo_url: str) -> None:
    pictures = frames(200)
    with Client(echo_url, NAME) as client:
        assert client.frame_transfer().kind == "shared_memory"
        outcomes = list(client.detect_stream(pictures, window=8))
        assert numbers(outcomes) == list(range(1, 201))
        assert 1 <= len(regions(echo_url)) <= 8, "regions are used again"
        assert names_in_shm() == []
    assert regions(echo_url) == []
    assert numbers(asyncio.run(streamed(echo_url, pictures, window=8))) == list(range(1, 201))
    assert regions(echo_url) == []


def test_processes_that_fork_do_not_get_each_others_answers(echo_url: str) -> None:
    command = [sys.executable, "-m", "tests.live.forked_clients", echo_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert regions(echo_url) == []


def test_frames_travel_as_jpeg_where_it_is_not_allowed(client: Client, sample: Path) -> None:
    transfer = client.frame_transfer()
    assert transfer.kind == "jpeg"
    assert "allows no shared memory" in transfer.reason
    assert len(client.detect(cv2.imread(str(sample)))) > 0


def test_a_frame_in_shared_memory_is_seen_as_it_is(sample: Path) -> None:
    """Pixel by pixel, hence the same detections as a PNG's, at widths that need padded rows too."""
    pixels = cv2.imread(str(sample))
    with embedded_server(COMMITTED, models=[DEFAULT], allow_shared_memory=True) as running:
        for url in (running.grpc_url, running.http_url):
            with Client(url, DEFAULT) as client:
                assert client.frame_transfer().kind == "shared_memory"
                for view in (pixels, pixels[:-1, :-1], pixels[:, 3:], np.ascontiguousarray(pixels[::-1])):
                    png = cv2.imencode(".png", view)[1].tobytes()
                    assert client.detect(view) == client.detect(png)


KILLED = """
import sys, numpy
from detserve_client import Client
client = Client(sys.argv[1], sys.argv[2])
frames = (numpy.zeros((480, 640, 3), numpy.uint8) for _ in range(10**9))
for outcome in client.detect_stream(frames, window=8):
    outcome.get()
    print("frame", flush=True)
"""


def test_what_a_killed_client_leaves_is_cleaned_up(echo_url: str) -> None:
    command = [sys.executable, "-c", KILLED, echo_url, NAME]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for _ in range(20):
            assert process.stdout.readline() == "frame\n"
        left = regions(echo_url)
        assert 1 <= len(left) <= 8
    finally:
        process.kill()
        process.wait()
    assert names_in_shm(process.pid) == []
    with Client(echo_url, NAME) as client:
        assert numbers([*client.detect_stream(frames(50), window=8)]) == list(range(1, 51))
    assert not set(left) & set(regions(echo_url))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("kind", ["threads", "event loop", "frames"])
def test_a_killed_and_restarted_server_loses_and_duplicates_nothing(
    echo_repository: Path, protocol: str, kind: str
) -> None:
    """2,000 pictures; the server is killed with SIGKILL after 500, and another started on its ports."""
    count = 600 if kind == "frames" else 2000
    pictures = frames(count) if kind == "frames" else [b"%d" % (number + 1) for number in range(count)]
    kill_now = threading.Event()
    with ExitStack() as servers:
        first = servers.enter_context(embedded_server(echo_repository, allow_shared_memory=True))
        ports = {
            "grpc_port": int(first.grpc_url.rpartition(":")[2]),
            "http_port": int(first.http_url.rpartition(":")[2]),
        }
        url = first.grpc_url if protocol == "grpc" else first.http_url

        def restart() -> None:
            kill_now.wait()
            os.kill(first.pid, signal.SIGKILL)
            time.sleep(0.5)
            servers.enter_context(embedded_server(echo_repository, allow_shared_memory=True, **ports))

        restarting = threading.Thread(target=restart)
        restarting.start()
        outcomes: list[Outcome] = []

        def take(outcome: Outcome) -> None:
            outcomes.append(outcome)
            if len(outcomes) == count // 4:
                kill_now.set()

        async def loop() -> None:
            async with AsyncClient(url, NAME, timeout_s=60) as client:
                async for outcome in client.detect_stream(pictures, window=8):
                    take(outcome)

        try:
            if kind == "event loop":
                asyncio.run(loop())
            else:
                with Client(url, NAME, timeout_s=60) as client:
                    for outcome in client.detect_stream(pictures, window=8):
                        take(outcome)
                    assert kind != "frames" or client.frame_transfer() == FrameTransfer("shared_memory")
        finally:
            kill_now.set()
            restarting.join()
    assert [str(outcome.error) for outcome in outcomes if outcome.error is not None] == []
    assert numbers(outcomes) == list(range(1, count + 1))
