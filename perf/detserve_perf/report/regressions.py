"""Whether a figure changed since an earlier run by more than its repeats differ among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from detserve_perf.report.measurements import Metric

RULE = (
    "A figure is worse or better when its median moved by more than the noise: the range of its repeats now "
    "plus the range of its repeats then, and 2 % at least. A figure measured once has no noise to go by and "
    "is not judged, except AP, which repeats exactly: there 0.002 counts."
)
_LEAST = 0.02
Verdict = Literal["worse", "better", "same", "not judged"]


@dataclass(frozen=True)
class Change:
    """One figure then and now; ``noise`` is in the figure's own unit, None when it cannot be told."""

    metric: Metric
    earlier: float
    now: float
    noise: float | None
    verdict: Verdict


def changes(now: Sequence[Metric], earlier: Sequence[Metric]) -> list[Change]:
    """The figures that both have, the worse first."""
    before = {metric.name: metric for metric in earlier}
    found = [_change(metric, before[metric.name]) for metric in now if metric.name in before]
    order: dict[Verdict, int] = {"worse": 0, "better": 1, "same": 2, "not judged": 3}
    return sorted(found, key=lambda change: order[change.verdict])


def _change(now: Metric, earlier: Metric) -> Change:
    then, today = median(earlier.values), median(now.values)
    noise = _noise(now, earlier)
    if noise is None:
        verdict: Verdict = "not judged"
    elif abs(today - then) <= noise:
        verdict = "same"
    else:
        verdict = "better" if (today > then) == now.higher_is_better else "worse"
    return Change(now, then, today, noise, verdict)


def _noise(now: Metric, earlier: Metric) -> float | None:
    if now.least_change is not None:
        return now.least_change
    if len(now.values) < 2 or len(earlier.values) < 2:
        return None
    ranges = sum(max(metric.values) - min(metric.values) for metric in (now, earlier))
    return max(ranges, _LEAST * abs(median(earlier.values)))
