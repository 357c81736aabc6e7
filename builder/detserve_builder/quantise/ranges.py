"""Histograms -> the range of every tensor that 8 bits are spread over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.quantise.statistics import BINS, Statistics

if TYPE_CHECKING:
    import onnx

Range = tuple[float, float]
Floats = NDArray[np.float64]
Activation = Callable[[Floats], Floats]

_PERCENTILE = 99.99
_SHARES = np.concatenate([np.linspace(1, 0.1, 46), np.geomspace(0.09, 0.01, 12)])  # of an end, as the limit


class Method(str, Enum):
    """How a range is chosen."""

    MIN_MAX = "min-max"  # everything that occurred
    PERCENTILE = "percentile"  # all but the largest hundredth of a percent by magnitude
    MSE = "mse"  # the least mean squared error of the rounded and clipped values
    ENTROPY = "entropy"  # the least Kullback-Leibler divergence of the values (Migacz, GTC 2017)


def ranges(
    statistics: Statistics,
    method: Method,
    *,
    symmetric: bool,
    activations: Mapping[str, Activation] | None = None,
    levels: int = 256,
) -> dict[str, Range]:
    """Low and high of each tensor; zero is inside, and ``symmetric`` makes low = -high.

    ``activations`` are functions that a tensor is read through and nothing else reads it: its error is what
    they make of it, so a range need not hold the negative values that they flatten. ``levels`` is how many
    values the quantised tensor can take; a symmetric one leaves the lowest unused.
    """
    chosen = {}
    for index, name in enumerate(statistics.names):
        histogram = _Histogram(statistics, index, (activations or {}).get(name))
        steps = levels - 2 if symmetric else levels - 1
        if symmetric:
            limit = histogram.limit(method, steps)
            chosen[name] = (-limit, limit)
        else:
            chosen[name] = histogram.range(method, steps)
    return chosen


def activations_of(model: onnx.ModelProto) -> dict[str, Activation]:
    """The tensors that are read through an activation only, with the function."""

    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            consumers.setdefault(name, []).append(node)
    outputs = {output.name for output in model.graph.output}
    found = {name: _activation(nodes) for name, nodes in consumers.items() if name not in outputs}
    return {name: function for name, function in found.items() if function}


def _activation(consumers: Iterable[onnx.NodeProto]) -> Activation | None:
    nodes = sorted(consumers, key=lambda node: node.op_type)
    operators = [node.op_type for node in nodes]
    if operators == ["Mul", "Sigmoid"] and nodes[1].output[0] in nodes[0].input:
        return lambda x: x / (1 + np.exp(-x))
    if operators == ["HardSigmoid", "Mul"] and nodes[0].output[0] in nodes[1].input:
        return lambda x: x * np.clip(x / 6 + 0.5, 0, 1)
    if operators == ["Sigmoid"]:
        return lambda x: 1 / (1 + np.exp(-x))
    if operators == ["LeakyRelu"]:
        slope = next((attribute.f for attribute in nodes[0].attribute if attribute.name == "alpha"), 0.01)
        return lambda x: np.where(x < 0, x * slope, x)
    return None


class _Histogram:
    """One tensor's occupied bins."""

    def __init__(self, statistics: Statistics, index: int, activation: Activation | None) -> None:
        self.low, self.high = float(statistics.low[index]), float(statistics.high[index])
        width = (self.high - self.low) / BINS
        occupied = np.flatnonzero(statistics.counts[index])
        self.values = self.low + (occupied + 0.5) * width
        self.counts = statistics.counts[index][occupied].astype(np.float64)
        self.half_bin = width / 2
        self.activation = activation

    def range(self, method: Method, steps: int) -> Range:
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if low == high:
            return low, high
        if method is Method.MSE:
            for _ in range(2):  # either end in turn, the other held
                high = self._best([(low, high * share) for share in _SHARES], steps)[1]
                low = self._best([(low * share, high) for share in _SHARES], steps)[0]
            return low, high
        limit = self.limit(method, steps)
        low, high = max(low, -limit), min(high, limit)
        if self.activation:
            low = self._best([(low * share, high) for share in _SHARES], steps)[0]
        return low, high

    def limit(self, method: Method, steps: int) -> float:
        """The largest magnitude that is kept."""
        largest = max(abs(self.low), abs(self.high))
        if largest == 0 or method is Method.MIN_MAX:
            return largest
        if method is Method.PERCENTILE:
            order = np.argsort(np.abs(self.values), kind="stable")
            reached = np.searchsorted(np.cumsum(self.counts[order]), self.counts.sum() * _PERCENTILE / 100)
            kept = float(np.abs(self.values[order])[min(int(reached), len(order) - 1)])
            return min(kept + self.half_bin, largest)
        limits = largest * _SHARES
        if method is Method.MSE:
            return self._best([(-limit, limit) for limit in limits], steps)[1]
        return float(limits[int(np.argmin([self._divergence(limit, steps) for limit in limits]))])

    def _best(self, candidates: list[Range], steps: int) -> Range:
        """Of the candidates with the least squared error, the first."""
        return candidates[int(np.argmin([self._squared_error(*bounds, steps) for bounds in candidates]))]

    def _squared_error(self, low: float, high: float, steps: int) -> float:
        if low == high:
            return float("inf")
        step = (high - low) / steps
        zero = np.rint(-low / step)
        rounded = (np.clip(np.rint(self.values / step) + zero, 0, steps) - zero) * step
        given, got = self.values, rounded
        if self.activation:
            given, got = self.activation(given), self.activation(got)
        return float((self.counts * (given - got) ** 2).sum())

    def _divergence(self, limit: float, steps: int) -> float:
        """Of the clipped histogram from its image under quantisation, over the bins within the limit."""
        inside = np.abs(self.values) <= limit
        kept = self.counts[inside]
        low, high = max(self.low, -limit), min(self.high, limit)
        if not kept.size or high - low <= steps * 2 * self.half_bin:
            return float("inf")  # nothing lies within, or fewer bins than levels, copied without loss
        clipped = kept.copy()
        clipped[0] += self.counts[self.values < -limit].sum()
        clipped[-1] += self.counts[self.values > limit].sum()
        level = np.rint((self.values[inside] - low) / (high - low) * steps).astype(np.intp)
        bins = np.bincount(level, minlength=steps + 1)
        image = (np.bincount(level, kept, steps + 1) / np.maximum(bins, 1))[level]
        p, q = clipped / clipped.sum(), image / image.sum()
        return float((p * np.log(p / q)).sum())
