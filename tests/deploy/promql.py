"""A query evaluated by Prometheus itself, through ``promtool test rules``, on series that are given."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not there: apt-get install prometheus"
)
_MINUTES = 10


def holds(folder: Path, per_minute: Mapping[str, float], conditions: Sequence[str]) -> None:
    """Assert that each condition gives one sample, 1, after ten minutes in which the series grew evenly."""
    assert PROMTOOL is not None
    tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": series, "values": f"0+{growth / 4!r}x{4 * _MINUTES}"}
                    for series, growth in per_minute.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": condition,
                        "eval_time": f"{_MINUTES}m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                    for condition in conditions
                ],
            }
        ],
    }
    file = folder / "tests.yml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def about(query: str, value: float) -> str:
    """The condition that the sum of what a query gives is ``value``."""
    return f"abs(sum({query}) - {value!r}) < bool 1e-6"
