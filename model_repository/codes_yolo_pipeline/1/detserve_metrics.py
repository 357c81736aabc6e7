"""What becomes of requests, counted where it is known, and written into Triton's metrics.

Triton counts each failure of an ensemble twice and a python model's error answer as a success, and takes a
request for running once the pipeline has it. Its summaries cannot be added up over servers; these can.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

PERIOD_S = 1.0
OUTCOMES = ("answered", "refused", "overloaded", "expired", "cancelled", "failed")
STAGES = ("queue", "decode", "detector", "postprocess")
#: Upper ends of the buckets. A quantile is known to within its bucket, half as much again or less below 1 s.
BUCKETS_S = (
    *(0.002, 0.003, 0.004, 0.006, 0.008, 0.011, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.11, 0.15, 0.2),
    *(0.3, 0.4, 0.6, 0.8, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0),
)
#: What Triton is told of each name. Its python models of 2.51 know no histogram: a bucket is a counter.
FAMILIES = {
    "detserve_queue_pictures": ("GAUGE", "Pictures that wait for a thread"),
    "detserve_queue_limit_pictures": ("GAUGE", "Pictures that may wait; a request beyond them is refused"),
    "detserve_queue_picture_seconds_total": ("COUNTER", "Sum of all waits"),
    "detserve_queue_taken_total": ("COUNTER", "Pictures that waited no longer"),
    "detserve_queue_refused_total": ("COUNTER", "Pictures refused, the queue being full or slow"),
    "detserve_requests_total": ("COUNTER", "Requests by what became of them"),
    "detserve_request_seconds_bucket": ("COUNTER", "Answered requests that took le seconds or less"),
    "detserve_request_seconds_sum": ("COUNTER", "Seconds of answered requests, until the answer was ready"),
    "detserve_request_seconds_count": ("COUNTER", "Answered requests"),
    "detserve_stage_seconds_sum": ("COUNTER", "Seconds of pictures in a stage"),
    "detserve_stage_seconds_count": ("COUNTER", "Pictures that went through a stage"),
}
#: A metric's name; then, where it has a label beside those of its process, the label and its value.
Series = tuple[str, ...]


class Counted(Protocol):
    """What a report is made from."""

    def totals(self) -> Mapping[Series, float]:
        """All that was counted until now, always of the same series, in the order of writing."""


class RequestCounts:
    """What became of the requests of one process, how long the answered took, and where the time went."""

    def __init__(
        self, stages: Sequence[str], *, first: bool = True, last: bool = True, warm_ups: int = 0
    ) -> None:
        """``stages`` of STAGES are in this process, a request's ``first`` and ``last`` among them or not.

        Only the last knows of answers, and only who is both how long they took. The first ``warm_ups``
        requests are Triton's own and not counted.
        """
        self.whole, self.last, self.warm_ups = first and last, last, warm_ups
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.answered_s = 0.0
        self.stages = {stage: [0.0, 0] for stage in stages}
        self.lock = threading.Lock()

    def count(self, outcome: str, seconds: float = 0.0) -> None:
        """One request is over, as far as this process goes; ``outcome`` is one of OUTCOMES."""
        with self.lock:
            if self.warm_ups:  # no other request comes before they are over
                self.warm_ups -= 1
                return
            if outcome == "answered":
                if not self.last:
                    return
                self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
                self.answered_s += seconds
            self.outcomes[outcome] += 1

    def spend(self, **seconds_by_stage: float) -> None:
        """One picture went through these stages."""
        with self.lock:
            if self.warm_ups:
                return
            for stage, seconds in seconds_by_stage.items():
                spent = self.stages[stage]
                spent[0] += seconds
                spent[1] += 1

    def totals(self) -> dict[Series, float]:
        """The widest bucket comes first: whoever reads in between finds none larger than a wider one."""
        with self.lock:
            found: dict[Series, float] = {
                ("detserve_requests_total", "outcome", outcome): number
                for outcome, number in self.outcomes.items()
            }
            for stage, (seconds, pictures) in self.stages.items():
                found["detserve_stage_seconds_sum", "stage", stage] = seconds
                found["detserve_stage_seconds_count", "stage", stage] = pictures
            if self.whole:
                ends = [*(f"{end:g}" for end in BUCKETS_S), "+Inf"]
                upto = list(accumulate(self.buckets))
                found["detserve_request_seconds_count",] = upto[-1]
                found["detserve_request_seconds_sum",] = self.answered_s
                for end, number in reversed(list(zip(ends, upto, strict=True))):
                    found["detserve_request_seconds_bucket", "le", end] = number
        return found


class CountedSender:
    """A request's response sender that counts what it sends, once it is sent."""

    def __init__(self, sender: Any, counts: RequestCounts) -> None:
        """The clock starts."""
        self.sender, self.counts, self.since_s = sender, counts, time.monotonic()

    def is_cancelled(self) -> bool:
        """Whether the caller has gone."""
        return bool(self.sender.is_cancelled())

    def send(self, response: Any, flags: int, outcome: str) -> None:
        """Answer for good; ``outcome`` is one of OUTCOMES."""
        took_s = time.monotonic() - self.since_s
        self.sender.send(response, flags)
        self.counts.count(outcome, took_s)


class Report:
    """Writes totals into Triton's metrics every second, from its own thread.

    Once a second and not with every picture: each write is a message to the server's process. Counters of
    several processes add up in Triton, and what they hold stays when a process ends. A gauge does not: each
    process has its own.
    """

    def __init__(self, counted: Sequence[Counted], model_name: str, process: str, pb_utils: Any) -> None:
        """Register all series at 0; where Triton has metrics off, the log says so and nothing is written.

        ``model_name`` is a step of the detector that is the metrics' label, ``process`` the name of this one.
        """
        self.counted, self.pb_utils, self.stopped = counted, pb_utils, threading.Event()
        self.written: dict[Series, float] = {}
        labels = {"model": model_name.rpartition("_")[0]}
        kinds, families = pb_utils.MetricFamily, {}
        self.metrics: dict[Series, Any] = {}
        self.thread = threading.Thread(target=self._run, name="metrics-report", daemon=True)
        try:
            for series in self._totals():
                name, *label = series
                kind, description = FAMILIES[name]
                if name not in families:
                    families[name] = kinds(name=name, description=description, kind=getattr(kinds, kind))
                own = {"process": process} if kind == "GAUGE" else dict([label] if label else [])
                self.metrics[series] = families[name].Metric(labels={**labels, **own})
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_warn(f"no metrics of {model_name}: {error}")
            return
        self.families = families  # Triton takes the metrics of a family away with it
        self.thread.start()

    def stop(self) -> None:
        """End the thread, after a last report."""
        self.stopped.set()
        if self.thread.ident:
            self.thread.join()

    def _totals(self) -> dict[Series, float]:
        return {series: total for one in self.counted for series, total in one.totals().items()}

    def _run(self) -> None:
        last = False
        while not last:
            last = self.stopped.wait(PERIOD_S)
            try:
                self._write()
            except self.pb_utils.TritonModelException as error:  # the next report makes up for it
                self.pb_utils.Logger.log_warn(f"metrics could not be written: {error}")

    def _write(self) -> None:
        for series, total in self._totals().items():
            written = self.written.get(series, 0.0)
            if FAMILIES[series[0]][0] == "GAUGE":
                self.metrics[series].set(total)
            elif total > written:
                self.metrics[series].increment(total - written)
                self.written[series] = total
