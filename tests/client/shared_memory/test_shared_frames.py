"""Frames in shared memory over a server in memory: what is cancelled on the way leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detserve_client import AsyncClient, AsyncFakeTransport, Card, Client, FakeTransport
from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.wire import DetectionRequest, Outputs, padded_outputs
from detserve_core.detections import Detections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")
SHM = Path("/dev/shm")
FRAME = np.zeros((40, 40, 3), np.uint8)


def names_in_shm() -> set[str]:
    """Those of this process."""
    return {path.name for path in SHM.glob(f"detserve-client-*-{os.getpid()}-*")}


def pool_bytes(client: Client | AsyncClient) -> int:
    """What the pool takes for held, free or not."""
    return sum(client._flows._frames._pool._sizes_bytes.values())


def free_bytes(client: Client | AsyncClient) -> int:
    return sum(region.size_bytes for region in client._flows._frames._pool._free)


class Sharing(FakeTransport):
    """Maps regions as Triton does, by their names in ``/dev/shm``."""

    def __init__(self, card: Card) -> None:
        super().__init__(card, lambda request: Detections.empty(card.labels))
        self.registered: set[str] = set()

    def shared_regions(self, timeout_s: float) -> list[str]:
        return sorted(self.registered)

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        assert (SHM / key.lstrip("/")).stat().st_size == size_bytes
        self.registered.add(name)

    def unregister_region(self, name: str, timeout_s: float) -> None:
        self.registered.discard(name)

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        assert request.shared is not None
        assert request.shared.region in self.registered
        return padded_outputs(Detections.empty(self.card.labels), self.card.thresholds.max_detections)


class AsyncSharing(AsyncFakeTransport):
    """Waits in a registration, after the server has mapped the region, while ``held`` is set."""

    def __init__(self, card: Card) -> None:
        super().__init__(card, lambda request: Detections.empty(card.labels))
        self.server = Sharing(card)
        self.held = False
        self.waiting = asyncio.Event()

    async def shared_regions(self, timeout_s: float) -> list[str]:
        return self.server.shared_regions(timeout_s)

    async def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        self.server.register_region(name, key, size_bytes, timeout_s)
        if self.held:
            self.waiting.set()
            await asyncio.sleep(60)

    async def unregister_region(self, name: str, timeout_s: float) -> None:
        self.server.unregister_region(name, timeout_s)

    async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        return self.server.infer(request, timeout_s)


async def cancelled(client: AsyncClient, begun: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.create_task(client.detect(FRAME))
    await asyncio.wait_for(begun(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_task_cancelled_while_its_region_is_registered_leaves_none(card: Card) -> None:
    async def go() -> None:
        transport = AsyncSharing(card)
        async with AsyncClient("grpc://localhost:1", "pets", transport=transport) as client:
            await client.card()
            before = names_in_shm()
            transport.held = True
            for _ in range(5):
                transport.waiting.clear()
                await cancelled(client, transport.waiting.wait)
                assert names_in_shm() == before
                assert pool_bytes(client) == 0
                assert len(transport.server.registered) == 1, "the server lets go of the one before"
            transport.held = False
            await client.detect(FRAME)
            assert pool_bytes(client) == free_bytes(client) == 1 << 20
            assert len(transport.server.registered) == 1
        assert transport.server.registered == set()

    asyncio.run(go())


def test_a_task_cancelled_while_its_frame_is_written_leaves_none(card: Card) -> None:
    """A thread may write on, so the region is not for the next frame."""
    write_on = threading.Event()

    async def go() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        transport = AsyncSharing(card)
        async with AsyncClient("grpc://localhost:1", "pets", transport=transport) as client:
            await client.detect(FRAME)
            before = names_in_shm()
            (first,) = transport.server.registered
            busy = asyncio.create_task(asyncio.to_thread(write_on.wait, 10))
            await cancelled(client, lambda: asyncio.sleep(0.05))
            assert pool_bytes(client) == 0
            write_on.set()
            assert await busy
            await client.detect(FRAME)
            assert pool_bytes(client) == free_bytes(client) == 1 << 20
            assert names_in_shm() == before
            assert len(transport.server.registered) == 1
            assert first not in transport.server.registered
        assert transport.server.registered == set()

    asyncio.run(go())


class Waiting(Sharing):
    """Answers an encoded picture when three frames are being registered, and those when it is told to."""

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        self.arrived, self.told = threading.Barrier(4), threading.Event()

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        super().register_region(name, key, size_bytes, timeout_s)
        if not self.told.is_set():
            self.arrived.wait(10)
            assert self.told.wait(10)

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        if request.pictures:
            self.arrived.wait(10)
            return FakeTransport.infer(self, request, timeout_s)
        return super().infer(request, timeout_s)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_of_frames_left_early_leaves_no_region(card: Card, ordered: bool) -> None:
    before = names_in_shm()
    transport = Waiting(card)
    with Client("grpc://localhost:1", "pets", transport=transport) as client:
        stream = client.detect_stream([b"picture", *[FRAME] * 100], window=4, ordered=ordered)
        assert next(stream).index == 0
        release = threading.Timer(0.3, transport.told.set)
        release.start()
        stream.close()  # type: ignore[attr-defined]
        release.join()
        assert names_in_shm() == before
        assert pool_bytes(client) == 0
        client.detect(FRAME)
        assert pool_bytes(client) == free_bytes(client) == 1 << 20
        assert len(transport.registered) == 1
    assert transport.registered == set()
