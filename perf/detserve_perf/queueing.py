"""A replica as a queue: G/G/c with measured service times and a bounded queue, simulated with simpy.

Arrivals are given as times. ``servers`` requests are in service at once and take a time drawn from what was
measured with as many under way; the others wait in one queue, first come first served, and are refused when
``queue_size`` wait already. Left out: batches (a batch of two is two services here), the steps of an ensemble
as stations of their own, and what the machine does beside.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Replica:
    """One server as a queue.

    ``service_s`` has one array of service times in seconds for every number of requests in service from 1 on,
    so its length is how many there can be. ``queue_size`` 0 is no bound, as in Triton.
    """

    service_s: tuple[Float64, ...]
    queue_size: int = 0

    @property
    def servers(self) -> int:
        """How many requests are in service at once at most."""
        return len(self.service_s)

    @property
    def capacity_per_s(self) -> float:
        """Requests a second with as many in service as can be."""
        return self.servers / float(self.service_s[-1].mean())


@dataclass(frozen=True)
class Waited:
    """What the simulated requests saw.

    ``latencies_ms`` has those that were not refused and ``waits_ms`` how long of it each was not in service,
    float64 [n].
    """

    latencies_ms: Float64
    waits_ms: Float64
    refused: int

    @property
    def mean_ms(self) -> float:
        """Mean latency."""
        return float(self.latencies_ms.mean())

    @property
    def mean_wait_ms(self) -> float:
        """Mean time in the queue."""
        return float(self.waits_ms.mean())

    def percentile_ms(self, percent: float) -> float:
        """Latency that ``percent`` of all requests stay within; infinite when more were refused."""
        total = len(self.latencies_ms) + self.refused
        rank = math.ceil(percent / 100 * total) - 1
        if rank >= len(self.latencies_ms):
            return math.inf
        return float(np.partition(self.latencies_ms, rank)[rank])


def simulate(replica: Replica, arrivals_s: Sequence[float] | Float64, seed: int) -> Waited:
    """Send requests at ``arrivals_s`` (ascending) through ``replica``."""
    import simpy

    random = np.random.default_rng(seed)
    draws = [random.choice(service, len(arrivals_s)) for service in replica.service_s]
    environment = simpy.Environment()
    stations = simpy.Resource(environment, replica.servers)
    latencies_s: list[float] = []
    waits_s: list[float] = []
    refused = 0

    def one(number: int, due_s: float) -> Generator[Any, Any, None]:
        with stations.request() as turn:
            yield turn
            waits_s.append(environment.now - due_s)
            yield environment.timeout(draws[stations.count - 1][number])
        latencies_s.append(environment.now - due_s)

    def arrive() -> Generator[Any, Any, None]:
        nonlocal refused
        for number, due_s in enumerate(arrivals_s):
            yield environment.timeout(due_s - environment.now)
            if replica.queue_size and len(stations.queue) >= replica.queue_size:
                refused += 1
            else:
                environment.process(one(number, due_s))

    environment.process(arrive())
    environment.run()
    return Waited(1e3 * np.array(latencies_s), 1e3 * np.array(waits_s), refused)
