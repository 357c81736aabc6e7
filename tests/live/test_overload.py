"""More requests than the queue holds. How fast the rest is answered is a figure of `make bench`."""

from __future__ import annotations

import asyncio
import re
import time

import urllib3

from detserve_client import Client
from detserve_core.endpoint import Endpoint
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import Run, closed_loop, grpc_sender, is_refusal, open_loop
from detserve_perf.load.wire_requests import triton_grpc_requests
from tests.live.conftest import DEFAULT, SAMPLES

QUEUE = 32
BURST = 600
REPORTED_S = 1.5  # the pipeline reports once a second


def _queue_metrics(server) -> dict[str, float]:
    """What the pipeline tells of its queue, by name."""
    text = urllib3.request("GET", server.metrics_url).data.decode()
    line = rf'^(detserve_queue_\w+){{model="{DEFAULT}"(?:,process="[^"]*")?}} (\S+)$'
    return {name: float(value) for name, value in re.findall(line, text, re.MULTILINE)}


def _few_then_many(server) -> tuple[Run, Run]:
    """As many callers as find room in the queue, then a burst of requests that all are due at once."""

    async def send_them() -> tuple[Run, Run]:
        requests = triton_grpc_requests(DEFAULT, read_pictures(SAMPLES))
        async with grpc_sender(Endpoint.parse(server.grpc_url), requests) as send:
            return await closed_loop(send, concurrency=8, requests=100), await open_loop(send, [0.0] * BURST)

    return asyncio.run(send_them())


def test_what_does_not_fit_the_queue_is_refused_and_the_rest_is_answered(server, sample) -> None:
    time.sleep(REPORTED_S)  # what other tests have sent
    before = _queue_metrics(server)
    few, burst = _few_then_many(server)
    assert few.errors == []
    assert all(is_refusal(error) for error in burst.errors)
    assert len(burst.samples) == BURST
    answered = [one.latency_s for one in burst.samples if one.error is None]
    assert len(answered) >= QUEUE
    assert len(burst.errors) > BURST / 2
    refused = [one.latency_s for one in burst.samples if one.error is not None]
    assert min(refused) < max(answered), "a refusal does not wait for the queue"
    with Client(server.grpc_url, DEFAULT) as client:
        assert len(client.detect(sample)) > 0
    time.sleep(REPORTED_S)
    after = _queue_metrics(server)
    assert after["detserve_queue_refused_total"] - before["detserve_queue_refused_total"] == len(refused)
    taken = after["detserve_queue_taken_total"] - before["detserve_queue_taken_total"]
    assert taken == len(answered) + len(few.samples) + 1
    waited_s = after["detserve_queue_picture_seconds_total"] - before["detserve_queue_picture_seconds_total"]
    assert 0 < waited_s < sum(answered) + sum(one.latency_s for one in few.samples)
    assert after["detserve_queue_pictures"] == 0
