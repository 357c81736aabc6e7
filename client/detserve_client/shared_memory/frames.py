"""Raw frames by shared memory: whether the server reads it, and the steps of sending one frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detserve_client.engine.flow_steps import ListRegions, Pause, RegisterRegion, Step, UnregisterRegion, Work
from detserve_client.engine.wire import SharedTensor
from detserve_client.shared_memory.regions import Region, RegionPool, abandoned, remove_abandoned_names
from detserve_core.endpoint import Endpoint, is_loopback
from detserve_core.errors import AccessDenied, DeadlineExceeded, InferenceError, ServerUnavailable

Retried = Callable[[Callable[[float], Step]], Generator[Step, Any, Any]]
"""Takes a step, made from the seconds left, again while the server is away."""

_UNKNOWN_REGION = "shared memory region"
_NOT_ALLOWED = (
    "the server allows no shared memory; started with --allow-shared-memory it does, to its own host"
)
_CLOSING_S = 1.0
_CLOSING_TRIES = 10
_CLOSING_PAUSE_S = 0.05


@dataclass(frozen=True)
class FrameTransfer:
    """How raw frames travel. ``reason`` says why not by shared memory, and is empty where they do."""

    kind: Literal["shared_memory", "jpeg"]
    reason: str = ""


class SharedFrames:
    """The regions of one client. ``transfer`` is None until the server has been asked."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._pool = RegionPool()
        self._left_by_others: list[str] = []
        self.transfer: FrameTransfer | None = None
        if not is_loopback(endpoint.host):
            self.transfer = FrameTransfer("jpeg", f"{endpoint.host} is not known to be this host")
        elif sys.platform != "linux":
            self.transfer = FrameTransfer("jpeg", "shared memory is for Linux only")

    def decide(self, retried: Retried) -> Generator[Step, Any, FrameTransfer]:
        """Ask the server, once, whether it reads shared memory; remove what killed clients left in it."""
        if self.transfer is None:
            try:
                names = yield from retried(ListRegions)
                self._left_by_others = yield from _unregistered(abandoned(names))
                remove_abandoned_names()
                self.transfer = FrameTransfer("shared_memory")
            except (ServerUnavailable, DeadlineExceeded):
                raise
            except AccessDenied:
                self.transfer = FrameTransfer("jpeg", _NOT_ALLOWED)
            except InferenceError as error:
                self.transfer = FrameTransfer("jpeg", str(error))
        return self.transfer

    def written(
        self, pixels: NDArray[np.uint8], retried: Retried
    ) -> Generator[Step, Any, tuple[Region, SharedTensor] | None]:
        """The frame in a region that the server knows, or None when it has to travel as JPEG."""
        transfer = yield from self.decide(retried)
        if transfer.kind == "jpeg":
            return None
        try:
            taken = self._pool.take(pixels)
        except OSError as error:
            self.transfer = FrameTransfer("jpeg", f"no region can be made: {error.strerror}")
            return None
        if taken is None:
            return None
        region, new = taken
        try:
            if new:
                yield from self._let_go_of_retired()
                yield from retried(
                    lambda left_s: RegisterRegion(region.name, region.key, region.size_bytes, left_s)
                )
                region.remove_name()
            size_bytes = yield Work(lambda: region.write(pixels))
        except (ServerUnavailable, DeadlineExceeded):
            self._pool.discard(region)
            raise
        except InferenceError as error:
            self._pool.discard(region)
            self.transfer = FrameTransfer("jpeg", str(error))
            return None
        except BaseException:  # cancelled: the server may know it, and a thread may still write into it
            self._pool.retire(region)
            raise
        return region, SharedTensor(region.name, size_bytes)

    def give_back(self, region: Region) -> None:
        """Use a region again."""
        self._pool.give_back(region)

    def lost(self, region: Region, error: InferenceError) -> bool:
        """Whether the server says that it does not know the region: it has been started again."""
        if _UNKNOWN_REGION not in str(error):
            return False
        self._pool.lost(region)
        return True

    def give_up(self, error: InferenceError) -> None:
        """Send frames as JPEG from now on."""
        self.transfer = FrameTransfer("jpeg", str(error))

    def _let_go_of_retired(self) -> Generator[Step, Any, None]:
        """Have the server let go of what was cancelled, so that its memory does not grow with every one."""
        names = self._pool.retired()
        left = yield from _unregistered(names)
        self._pool.forget(set(names) - set(left))

    def close(self) -> Generator[Step, Any, None]:
        """Have the server let go of every region."""
        names = self._pool.close() + self._left_by_others
        for _ in range(_CLOSING_TRIES):
            names = yield from _unregistered(names)
            if not names:
                break
            yield Pause(_CLOSING_PAUSE_S)


def _unregistered(names: Iterable[str]) -> Generator[Step, Any, list[str]]:
    """Have the server let go of regions; returns those that a request which was given up still reads."""
    left = []
    for name in names:
        try:
            yield UnregisterRegion(name, _CLOSING_S)
        except (ServerUnavailable, DeadlineExceeded):
            return []  # it knows none after its start, or the next client does it
        except InferenceError:
            left.append(name)
    return left
