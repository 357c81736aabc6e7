"""How many callers that wait for their answers keep a server busy: what its capacity is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What keeps the cores busy that decode, and the network where it takes one picture at a time.
CALLERS = 8


def callers_that_fill(configs: Mapping[str, dict[str, Any]]) -> int:
    """Beside these 8, for a batch in each instance of a model that Triton batches and for the next.

    ``configs`` are those of the models of a detector, by name. No more than its first queue has room for.
    """
    batches = [
        max(1, int(config.get("max_batch_size", 0))) * (_instances(config) + 1)
        for config in configs.values()
        if "dynamic_batching" in config
    ]
    rooms = [
        _instances(config) * (waiting + _number(config, "in_flight"))
        for config in configs.values()
        if (waiting := _number(config, "max_waiting"))
    ]
    return max(1, min([CALLERS + max(batches, default=0), *rooms]))


def _instances(config: dict[str, Any]) -> int:
    """As Triton tells them: with the GPUs on each of which a group has its count."""
    groups = config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups) or 1


def _number(config: dict[str, Any], parameter: str) -> int:
    return int(config.get("parameters", {}).get(parameter, {}).get("string_value") or 0)
