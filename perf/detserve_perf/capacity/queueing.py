"""A replica as a queue with limited processor sharing, simulated.

Requests in service share the machine: with k of them each goes at the speed that was measured with k under
way. What comes while all places are taken waits in one queue, first come first served, and is refused when
``queue_size`` wait already. With speeds of 1 this is G/G/c. Left out: batches (a batch of two is two services
here), the steps of an ensemble as stations of their own, and what the machine does beside. The loop is our
own because simpy's resources serve each request at one speed.

Limited processor sharing: Zhang, Dai, Zwart, "Diffusion limits of limited processor sharing queues", 2011.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Replica:
    """One server as a queue.

    ``work_s`` are seconds that requests take alone, float64 [n]. ``speeds`` has how fast each of 1, 2, ...
    requests in service goes, 1 being as fast as alone; its length is how many there can be. ``queue_size`` 0
    is no bound, as in Triton.
    """

    work_s: Float64
    speeds: tuple[float, ...]
    queue_size: int = 0

    @property
    def capacity_per_s(self) -> float:
        """Requests a second with as many in service as can be."""
        return len(self.speeds) * self.speeds[-1] / float(self.work_s.mean())


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
    work_s = np.random.default_rng(seed).choice(replica.work_s, len(arrivals_s)).tolist()
    latencies_s, waits_s, refused = [], [], 0
    in_service: list[list[float]] = []  # work left, arrival
    queue: deque[tuple[float, float]] = deque()  # work, arrival
    now_s = 0.0

    def advance(to_s: float) -> float:
        """Let time pass until ``to_s``, or the first end of a service before it; what it is then."""
        if not in_service:
            return to_s
        speed = replica.speeds[len(in_service) - 1]
        first = min(in_service)
        if ends := now_s + first[0] / speed <= to_s:
            to_s = now_s + first[0] / speed
        done = (to_s - now_s) * speed
        for request in in_service:
            request[0] -= done
        if ends:
            in_service.remove(first)
            latencies_s.append(to_s - first[1])
            if queue:
                work, arrival_s = queue.popleft()
                waits_s.append(to_s - arrival_s)
                in_service.append([work, arrival_s])
        return to_s

    for arrival_s, work in zip(arrivals_s, work_s, strict=True):
        while now_s < arrival_s:
            now_s = advance(float(arrival_s))
        if len(in_service) < len(replica.speeds):
            waits_s.append(0.0)
            in_service.append([work, now_s])
        elif replica.queue_size and len(queue) >= replica.queue_size:
            refused += 1
        else:
            queue.append((work, now_s))
    while in_service:
        now_s = advance(math.inf)
    return Waited(1e3 * np.array(latencies_s), 1e3 * np.array(waits_s), refused)
