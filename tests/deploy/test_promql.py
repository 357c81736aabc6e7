"""What the dashboard and the autoscalers ask, evaluated by Prometheus on series whose answer is known."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from detserve_builder.steps.detserve_metrics import BUCKETS_S, STAGES, RequestCounts
from tests.deploy.dashboard import panels_of
from tests.deploy.kubernetes import FOLDER
from tests.deploy.promql import about, holds, needs_promtool

pytestmark = needs_promtool

HERE = 'namespace="detserve"'
#: A minute of the queue of each first step, and of Triton's before each detector that is a model of its own.
PIPELINE = {
    f'detserve_queue_picture_seconds_total{{{HERE},model="a",pod="one"}}': 6.0,
    f'detserve_queue_taken_total{{{HERE},model="a",pod="one"}}': 600.0,
    f'detserve_queue_picture_seconds_total{{{HERE},model="a",pod="two"}}': 18.0,
    f'detserve_queue_taken_total{{{HERE},model="a",pod="two"}}': 600.0,
}
DETECTOR = {
    f'nv_inference_queue_duration_us{{{HERE},model="a_detector",version="1",pod="one"}}': 12e6,
    f'nv_inference_request_success{{{HERE},model="a_detector",version="1",pod="one"}}': 600.0,
    f'nv_inference_queue_duration_us{{{HERE},model="a",version="1",pod="one"}}': 7e6,
    f'nv_inference_request_success{{{HERE},model="a",version="1",pod="one"}}': 600.0,
}


def _scaler() -> list[str]:
    scaled = yaml.safe_load((FOLDER / "components/keda/scaledobject.yaml").read_text())
    return [one["metadata"]["query"] for one in scaled["spec"]["triggers"]]


def _panel(title: str) -> list[str]:
    found = [expression for name, expression in panels_of(interval="2m") if name == title]
    assert found, title
    return found


@pytest.mark.parametrize(
    ("series", "waiting", "mean_wait_s"),
    [
        (PIPELINE, 0.4, 0.02),
        ({**PIPELINE, **DETECTOR}, 0.6, 0.03),
        (DETECTOR, 0.2, 0.02),
        (dict.fromkeys(PIPELINE, 0.0), 0.0, 0.0),
    ],
    ids=["pipeline", "pipeline and detector", "DALI's steps", "no traffic"],
)
def test_the_autoscalers_go_by_the_mean_wait_of_a_picture(
    tmp_path: Path, series, waiting, mean_wait_s
) -> None:
    seconds, pictures = _scaler()
    holds(tmp_path, series, [about(seconds, mean_wait_s), about(pictures, waiting)])
    if not waiting:
        return
    (length,), (wait,) = _panel("Waiting pictures"), _panel("Time in the queue")
    holds(tmp_path, series, [about(length, waiting), about(wait, mean_wait_s)])


def _replica(pod: str, seconds: Iterable[float]) -> dict[str, float]:
    """What one server tells when it answers these requests in a minute."""
    counts = RequestCounts(STAGES)
    for one in seconds:
        counts.count("answered", one)
    told = {}
    for (name, *label), total in counts.totals().items():
        own = f',{label[0]}="{label[1]}"' if label else ""
        told[f'{name}{{model="a",pod="{pod}"{own}}}'] = total
    return told


def test_the_quantiles_of_two_replicas_together_are_right_within_a_bucket(tmp_path: Path) -> None:
    """Neither's own p99 is that of both, nor is their mean: one is quick, the other has a slow tail."""
    draw = random.Random(7)  # noqa: S311
    quick = [draw.gammavariate(4, 0.004) for _ in range(3000)]
    slow = [
        draw.gammavariate(4, 0.004) if draw.random() < 0.9 else draw.uniform(0.3, 0.9) for _ in range(900)
    ]
    both = sorted([*quick, *slow])
    conditions = []
    for quantile, expression in zip((0.5, 0.9, 0.99), _panel("Latency in the server"), strict=True):
        true_s = both[int(quantile * len(both))]
        end = bisect_left(BUCKETS_S, true_s)
        low, high = BUCKETS_S[end - 1], BUCKETS_S[end]
        conditions.append(f"(sum({expression}) > bool {low}) * (sum({expression}) <= bool {high})")
    holds(tmp_path, {**_replica("one", quick), **_replica("two", slow)}, conditions)


def test_outcomes_and_stages_are_summed_over_replicas(tmp_path: Path) -> None:
    series = {
        f'detserve_requests_total{{model="a",pod="{pod}",outcome="{outcome}"}}': number
        for pod in ("one", "two")
        for outcome, number in (("answered", 600.0), ("refused", 60.0), ("failed", 6.0))
    }
    for pod, seconds in (("one", 6.0), ("two", 12.0)):
        series[f'detserve_stage_seconds_sum{{model="a",pod="{pod}",stage="detector"}}'] = seconds
        series[f'detserve_stage_seconds_count{{model="a",pod="{pod}",stage="detector"}}'] = 600.0
    unanswered, _ = _panel("Requests without an answer")
    (answered,), (stages,) = _panel("Throughput"), _panel("Where a picture's time goes")
    holds(tmp_path, series, [about(answered, 20.0), about(unanswered, 2.2), about(stages, 0.015)])
