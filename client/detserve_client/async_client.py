"""The client for an event loop: pictures in, detections out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar, overload

from detserve_client.engine.async_streams import stream
from detserve_client.engine.base_client import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    DEFAULT_WINDOW,
    BaseClient,
    checked_window,
)
from detserve_client.engine.flow_steps import (
    AskReady,
    FetchConfig,
    Flow,
    Infer,
    ListModels,
    ListRegions,
    Pause,
    RegisterRegion,
    Step,
    UnregisterRegion,
    Work,
)
from detserve_client.pictures.encoding import PictureSource, from_rgb
from detserve_client.pictures.one_or_several import one_or_several
from detserve_client.results.outcomes import Outcome, of_several
from detserve_client.shared_memory.frames import FrameTransfer
from detserve_client.transports.base import AsyncTransport
from detserve_core.card import Card
from detserve_core.detections import Detections
from detserve_core.errors import DetserveError, ServerUnavailable
from detserve_core.security import UNSECURED, Security

_Result = TypeVar("_Result")


class AsyncClient(BaseClient):
    """A :class:`~detserve_client.Client` for event loops.

    Usage::

        async with AsyncClient("localhost:8001", "codes") as client:
            detections = await client.detect("desk.jpg")

    Arguments, errors and retries are those of :class:`~detserve_client.Client`. Each event loop, as each
    ``asyncio.run`` has one, gets connections of its own; those of the loop that closes it are closed at once.
    After a fork, one over HTTP may be used by the child too, one over gRPC by its parent only: ``grpc.aio``
    does not fork.
    Cancelling a task
    ends its request on this side; a picture that the server's pipeline has taken is finished there all the
    same, unless its ``timeout_s`` is over before a thread is free for it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        model: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: AsyncTransport | None = None,
        security: Security = UNSECURED,
    ) -> None:
        super().__init__(url, model, timeout_s, security)
        if transport is None:
            from detserve_client.transports import async_transport_to

            transport = async_transport_to(self.endpoint)
        self._transport = transport

    async def __aenter__(self) -> AsyncClient:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        await self._run(self._flows.close())
        await self._transport.close()

    async def ready(self) -> bool:
        """Whether the server is there and the model takes requests. Makes one attempt."""
        try:
            if not self.model:
                await self.card()
            ready = await self._transport.ready(self.model, self.timeout_s)
        except ServerUnavailable:
            return False
        self._flows.server_answered()
        return ready

    async def card(self) -> Card:
        """The detector's card, asked for once and kept."""
        return await self._run(self._flows.card(self._deadline_s()))

    async def models(self) -> list[str]:
        """The names of the detectors that the server has ready; see :meth:`detserve_client.Client.models`."""
        return await self._run(self._flows.detectors(self._deadline_s()))

    async def frame_transfer(self) -> FrameTransfer:
        """How frames, BGR pixels in numpy arrays, travel to this server.

        By shared memory, as they are, when the server is on this host and allows it; else as JPEG, and the
        answer says why.
        """
        return await self._run(self._flows.frame_transfer(self._deadline_s()))

    @overload
    async def detect(  # type: ignore[overload-overlap]
        self,
        source: PictureSource,
        *,
        rgb: bool = False,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Detections: ...
    @overload
    async def detect(
        self,
        source: Iterable[PictureSource],
        *,
        rgb: bool = False,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Detections]: ...
    async def detect(
        self,
        source: PictureSource | Iterable[PictureSource],
        *,
        rgb: bool = False,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Detections | list[Detections]:
        """Detect in one picture or in several; see :meth:`detserve_client.Client.detect`."""
        given = one_or_several(source)
        if not isinstance(given, list):
            limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
            return await self._run(self._flows.detect(from_rgb(given) if rgb else given, limits))
        outcomes = self.detect_stream(
            [from_rgb(each) for each in given] if rgb else given,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            timeout_s=timeout_s,
        )
        async with aclosing(outcomes):
            return [of_several(outcome) async for outcome in outcomes]

    async def detect_batch(
        self,
        sources: Sequence[PictureSource],
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Outcome]:
        """Detect in pictures that travel together; see :class:`~detserve_client.Client`."""
        limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
        batches = await self._run(self._flows.batches(sources, self._deadline_s()))
        outcomes: list[Outcome] = []
        for indices in batches:
            outcomes += await self._run(self._flows.batch(indices, sources, limits))
        return outcomes

    async def detect_stream(
        self,
        sources: Iterable[PictureSource] | AsyncIterable[PictureSource],
        *,
        window: int = DEFAULT_WINDOW,
        ordered: bool = True,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Detect in many pictures with ``window`` requests in flight at a time.

        As :meth:`detserve_client.Client.detect_stream`. A source that waits for its next picture
        should be asynchronous: a plain iterable is read in the event loop. To leave a loop over the outcomes
        early, use ``contextlib.aclosing``, which cancels what is in flight at once.
        """
        checked_window(window)
        limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
        await self.card()
        outcomes = stream(
            lambda index, source: self._run(self._flows.outcome(index, source, limits)),
            sources,
            window=window,
            ordered=ordered,
        )
        try:
            async for outcome in outcomes:
                yield outcome
        finally:
            await outcomes.aclose()

    async def _run(self, flow: Flow[_Result]) -> _Result:
        try:
            step = next(flow)
            while True:
                try:
                    answer = await self._answer(step)
                except DetserveError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result
        finally:
            flow.close()

    async def _answer(self, step: Step) -> Any:
        match step:
            case Infer(request, timeout_s):
                return await self._transport.infer(request, timeout_s)
            case Work(function):
                return await asyncio.to_thread(function)
            case FetchConfig(model, timeout_s):
                return await self._transport.model_config(model, timeout_s)
            case ListModels(timeout_s):
                return await self._transport.models(timeout_s)
            case AskReady(timeout_s):
                return await self._transport.server_ready(timeout_s)
            case ListRegions(timeout_s):
                return await self._transport.shared_regions(timeout_s)
            case RegisterRegion(name, key, size_bytes, timeout_s):
                return await self._transport.register_region(name, key, size_bytes, timeout_s)
            case UnregisterRegion(name, timeout_s):
                return await self._transport.unregister_region(name, timeout_s)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
