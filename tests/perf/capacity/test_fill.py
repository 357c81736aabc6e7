from __future__ import annotations

from typing import Any

import pytest

from detserve_perf.capacity.fill import callers_that_fill

PIPELINE: dict[str, Any] = {"max_batch_size": 8, "instance_group": [{"count": 1}]}


def said(**parameters: str) -> dict[str, Any]:
    return {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


def batched(batch: int, *groups: dict[str, Any]) -> dict[str, Any]:
    return {"max_batch_size": batch, "dynamic_batching": {}, "instance_group": list(groups)}


@pytest.mark.parametrize(
    ("configs", "callers"),
    [
        ({"a": {}, "a_pipeline": PIPELINE | said(max_waiting="32")}, 8),
        ({"a_pipeline": PIPELINE | said(max_waiting="5")}, 5),
        ({"a_pipeline": PIPELINE | said(max_waiting="32", in_flight="16"), "a_detector": batched(8, {})}, 24),
        ({"a_pipeline": PIPELINE | said(max_waiting="32", in_flight="128"), "d": batched(64, {})}, 136),
        ({"a_preprocess": PIPELINE | said(max_waiting="32"), "d": batched(64, {})}, 32),
        ({"d": batched(8, {"count": 2})}, 32),
        ({"d": batched(8, {"count": 1, "gpus": [0, 1, 2]})}, 40),
        ({"d": batched(8, {"count": 1}, {"count": 2})}, 40),
        ({"d": batched(0)}, 10),
        ({}, 8),
    ],
)
def test_callers_fill_a_batch_in_each_instance_and_the_next_where_there_is_room(
    configs: dict[str, Any], callers: int
) -> None:
    assert callers_that_fill(configs) == callers
