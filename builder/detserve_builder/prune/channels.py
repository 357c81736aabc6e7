"""Structured pruning: whole channels go, with the filters that make them, and the network becomes smaller.

Nothing is trained. Which channels go from a group of alike ones: one after another, that whose absence costs
its readers least once the others make up for it (Optimal Brain Surgeon, Hassibi & Stork 1992; by channels and
from calibration pictures as in Frantar & Alistarh 2022, arXiv:2208.11580). How many from which group: as much
as the detections of a few pictures bear, measured group by group, for the arithmetic that it saves. What is
left of the weights is then fitted anew by least squares (He et al. 2017, arXiv:1707.06168).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.errors import BuildError
from detserve_builder.graph.network import own_layers
from detserve_builder.precision.sensitivity import Probe, probed_pictures
from detserve_builder.prune.channels_elimination import Elimination
from detserve_builder.prune.channels_graph import Coupling, Group, coupling
from detserve_builder.prune.channels_moments import Floats, Moments, moments, refitted
from detserve_builder.prune.channels_removal import without_channels
from detserve_builder.quantise.calibration import CalibrationSource, Progress

if TYPE_CHECKING:
    import onnx

_LEVELS = 4  # how many counts are measured of each group, up to half of it
_WIDEST = 4608  # weights a filter: 512 channels of 3x3


@dataclass(frozen=True)
class RemovedChannels:
    """The channels ``removed`` (ids) from a group so far, and the harm of that alone."""

    removed: tuple[int, ...]
    harm: float


def prune_channels(
    model: onnx.ModelProto,
    share: float,
    source: CalibrationSource,
    probe: Probe,
    progress: Progress = lambda done, total: None,
) -> tuple[onnx.ModelProto, dict[str, tuple[int, int]], float]:
    """``model`` (left as it is) with at least ``share`` of the multiplications with its weights less.

    Also gives, of every convolution that lost filters, how many it keeps and how many it had, and what share
    of the multiplications that saves. Raises :class:`BuildError` where the network's channels cannot be
    traced, or half of them are not enough.
    """
    pruner = _Pruner(model, source, probe, progress)
    removed = pruner.choose(share)
    saved = 1 - pruner.multiplications(removed) / pruner.multiplications(())
    return pruner.without(removed, pruner.seen_in_all), pruner.kept(removed), saved


@dataclass(frozen=True)
class _Pruner:
    model: onnx.ModelProto
    source: CalibrationSource
    probe: Probe
    progress: Progress

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Of every Conv with constant weights, by its name."""
        from onnx import numpy_helper

        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        return {
            node.name: numpy_helper.to_array(constants[node.input[1]])
            for node in self.model.graph.node
            if node.op_type == "Conv" and node.input[1] in constants
        }

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        return {node.name: node for node in self.model.graph.node}

    @cached_property
    def coupled(self) -> Coupling:
        return coupling(self.model)

    @cached_property
    def groups(self) -> list[Group]:
        """Those that can become smaller by a whole block of channels."""
        return [
            group
            for group in self.coupled.groups
            if _counts(len(group.channels))
            and all(self.weights[name][0].size <= _WIDEST for name in group.readers)
        ]

    @cached_property
    def seen(self) -> dict[str, Moments]:
        """Over the pictures that harm is not measured on, so that it tells what was not fitted."""
        count = len(self.source.pictures)
        probed = probed_pictures(count)
        if count < 2 * len(probed):
            return self.seen_in_all
        images = (image for index, image in enumerate(self.source.images()) if index not in probed)
        return self._moments(images)

    @cached_property
    def seen_in_all(self) -> dict[str, Moments]:
        return self._moments(self.source.images())

    def _moments(self, images: Iterable[NDArray[np.uint8]]) -> dict[str, Moments]:
        readers = dict.fromkeys(name for group in self.groups for name in group.readers)
        kernels = {name: (self.weights[name].shape[2], self.weights[name].shape[3]) for name in readers}
        return moments(self.model, [self.nodes[name] for name in readers], kernels, images)

    def choose(self, share: float) -> set[int]:
        """Ids of the channels to remove: the next step that harms least for what it saves, until enough."""
        if not self.groups:
            raise BuildError(
                f"--prune channels:{share:g}: no channel of this network can go: none is followed from a "
                "convolution to the next; leave it out"
            )
        whole = self.multiplications(())
        steps = [self.steps(group) for group in self.groups]
        done = [0] * len(steps)
        removed: set[int] = set()
        while (now := self.multiplications(removed)) > whole * (1 - share):
            best, best_price = -1, np.inf
            for index, ahead in enumerate(steps):
                if done[index] + 1 >= len(ahead):
                    continue
                following = ahead[done[index] + 1]
                saved = now - self.multiplications(removed.union(following.removed))
                # errors of layers add up in squares; saving more than is asked for is worth nothing
                harm = max(following.harm**2 - ahead[done[index]].harm ** 2, 1e-12)
                price = harm / max(min(saved, now - whole * (1 - share)), 1)
                if price < best_price:
                    best, best_price = index, price
            if best < 0:
                raise BuildError(
                    f"--prune channels:{share:g}: half of the channels that can go save "
                    f"{1 - now / whole:.0%} of the multiplications; ask for less"
                )
            done[best] += 1
            removed.update(steps[best][done[best]].removed)
        return removed

    def steps(self, group: Group) -> list[RemovedChannels]:
        order = self.order(group)
        steps = [RemovedChannels((), 0.0)]
        for count in _counts(len(group.channels)):
            removed = tuple(order[: len(group.channels) - count])
            steps.append(RemovedChannels(removed, self.probe.harm(self.without(removed, self.seen))))
        self.progress(self.groups.index(group) + 1, len(self.groups))
        return steps

    def order(self, group: Group) -> list[int]:
        """Channels of a group, that which costs its readers least first, down to half of them."""
        states = [
            Elimination.of(
                self.weights[name],
                self.seen[name],
                self.coupled.channels[self.nodes[name].input[0]],
                group.channels,
            )
            for name in group.readers
        ]
        left, order = np.ones(len(group.channels), bool), []
        for _ in range(len(group.channels) - _counts(len(group.channels))[-1]):
            costs = sum(state.costs() for state in states)
            lowest = int(np.argmin(np.where(left, costs, np.inf)))
            for state in states:
                state.eliminate(lowest)
            left[lowest] = False
            order.append(int(group.channels[lowest]))
        return order

    def multiplications(self, removed: Collection[int]) -> int:
        """Of all layers at batch 1, without the channels ``removed``."""
        gone = np.zeros(self._num_ids, bool)
        gone[list(removed)] = True
        total = self._fixed
        for name, weight in self.weights.items():
            node = self.nodes[name]
            out = self.coupled.channels.get(node.output[0])
            read = self.coupled.channels.get(node.input[0])
            made = weight.shape[0] if out is None else int((~gone[out]).sum())
            into = weight.shape[1]
            if read is not None and len(read) == into:
                into = int((~gone[read]).sum())
            total += made * into * weight[0, 0].size * self._cells[name]
        return total

    @cached_property
    def _num_ids(self) -> int:
        return 1 + max((int(ids.max()) for ids in self.coupled.channels.values() if len(ids)), default=0)

    @cached_property
    def _shapes(self) -> dict[str, list[int]]:
        graph = self.model.graph
        return {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input, *graph.output)
        }

    @cached_property
    def _cells(self) -> dict[str, int]:
        return {name: int(np.prod(self._shapes[self.nodes[name].output[0]][2:])) for name in self.weights}

    @cached_property
    def _fixed(self) -> int:
        """Multiplications of the layers whose channels are not followed: ConvTranspose, Gemm, MatMul."""
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in self.model.graph.initializer}
        total = 0
        for name in own_layers(self.model).floats:
            node = self.nodes[name]
            if node.op_type == "ConvTranspose":
                total += sizes[node.input[1]] * int(np.prod(self._shapes[node.input[0]][2:]))
            elif node.op_type != "Conv":
                rows = self._shapes.get(node.output[0], [])[:-1]
                total += sizes[node.input[1]] * int(np.prod([max(size, 1) for size in rows]))
        return total

    def without(self, removed: Collection[int], moments_of: Mapping[str, Moments]) -> onnx.ModelProto:
        """The smaller model, its readers fitted anew."""
        from onnx import numpy_helper

        smaller = without_channels(self.model, self.coupled, removed)
        nodes = {node.name: node for node in smaller.graph.node}
        gone = np.array(sorted(removed), np.int64)
        for name, seen in moments_of.items():
            node, original = nodes[name], self.nodes[name]
            keep_in = ~np.isin(self.coupled.channels[original.input[0]], gone)
            if keep_in.all():
                continue
            keep_out = ~np.isin(self.coupled.channels[original.output[0]], gone)
            weight = self.weights[name][keep_out]
            columns = np.repeat(keep_in, weight[0, 0].size)
            fitted, shift = refitted(weight.reshape(len(weight), -1).astype(np.float64), columns, seen)
            fitted = fitted.reshape(len(weight), -1, *weight.shape[2:])
            constants = {tensor.name: tensor for tensor in smaller.graph.initializer}
            constants[node.input[1]].CopyFrom(
                numpy_helper.from_array(fitted.astype(np.float32), node.input[1])
            )
            _shift_bias(smaller, node, shift)
        return smaller

    def kept(self, removed: Collection[int]) -> dict[str, tuple[int, int]]:
        gone = np.array(sorted(removed), np.int64)
        kept = {}
        for name in self.weights:
            made = self.coupled.channels.get(self.nodes[name].output[0])
            if made is not None and np.isin(made, gone).any():
                kept[name] = (int((~np.isin(made, gone)).sum()), len(made))
        return kept


def _counts(size: int) -> list[int]:
    """How many of ``size`` channels may be kept, the most first: whole blocks, as kernels compute them."""
    block = 16 if size >= 64 else 8 if size >= 32 else 4
    counts = list(range((size - 1) // block * block, (size + 1) // 2 - 1, -block))
    if len(counts) <= _LEVELS:
        return counts
    return [counts[index] for index in np.linspace(0, len(counts) - 1, _LEVELS).round().astype(int)]


def _shift_bias(model: onnx.ModelProto, node: onnx.NodeProto, shift: Floats) -> None:
    from onnx import numpy_helper

    given = {tensor.name: tensor for tensor in model.graph.initializer}
    bias = shift
    if len(node.input) > 2 and node.input[2]:
        bias = bias + numpy_helper.to_array(given[node.input[2]])
        del node.input[2:]
    name = f"{node.name}_fitted_bias"
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
    node.input.append(name)
