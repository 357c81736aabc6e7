"""Which layers stay in float because 8 bits gain nothing there, and how SiLU is computed, by speed alone.

What an INT8 layer saves depends on the machine. With AMX, bf16 multiplies nearly as fast as 8 bits do, and a
small layer pays more for the rounding of its output than it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.graph.network import Unfit
from detserve_builder.mixing.layer_gains import layer_gains_ms
from detserve_builder.precision.speed import THREADS, interleaved

if TYPE_CHECKING:
    from detserve_builder.precision.gate import Candidate

_FASTER = 1.02  # by less, a mix is not told from noise
_SHARES = (0.75, 0.5, 0.3)  # a quarter of all layers at least must be INT8 to be called so
_ROUNDS = 20


@dataclass(frozen=True)
class Mix:
    """The layers that stay in float whatever their AP, and whether each SiLU is a polynomial."""

    in_float: tuple[str, ...] = ()
    polynomial_silu: bool = False


def mixes(gains_ms: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Layers to leave in float, a tuple for each mix to be timed, given what each layer gains by INT8.

    None; those that gain nothing; all but the best three quarters, half and 30 %. What a layer gains is
    not all: where a float layer meets one in 8 bits the tensor between them is converted, which only a run
    of the whole shows.
    """
    best_first = sorted(gains_ms, key=lambda layer: -gains_ms[layer])
    gaining = sum(gain > 0 for gain in gains_ms.values())
    counts = [len(best_first), gaining, *(round(share * len(best_first)) for share in _SHARES)]
    kept = [set(best_first[count:]) for count in dict.fromkeys(counts) if count]
    return [tuple(layer for layer in gains_ms if layer in stays) for stays in kept]


def fastest_mix(
    made_with: Callable[[Mix], Candidate],
    floats: Callable[[bool], Candidate],
    layers: list[str],
    images: list[NDArray[np.uint8]],
) -> Mix:
    """The fastest of all ``layers`` in INT8 and mixes; ``floats`` gives the float network, SiLU so or so.

    ``images`` are uint8 [1,H,W,3]. A mix that is no use (:class:`Unfit`) is left out. Nothing is mixed where
    the runtime does not run all of it in INT8, which the check of a runtime says before anything is chosen.
    """
    plain, polynomial = made_with(Mix()), made_with(Mix(polynomial_silu=True))
    if not _runs(plain):
        return Mix()
    smooth = bool(polynomial.settings.get("polynomial_silus")) and _runs(polynomial)
    smooth = smooth and _faster(plain, polynomial, images) > _FASTER
    every = polynomial if smooth else plain
    known_ms = layer_gains_ms(floats(smooth), every, layers, images)
    gains_ms = {layer: known_ms.get(layer, 0.0) for layer in layers}
    best, best_speedup = Mix(polynomial_silu=smooth), _FASTER
    for in_float in mixes(gains_ms)[1:]:
        mix = Mix(in_float, smooth)
        try:
            speedup = _faster(every, made_with(mix), images)
        except Unfit:
            continue
        if speedup > best_speedup:
            best, best_speedup = mix, speedup
    return best


def _runs(candidate: Candidate) -> bool:
    try:
        candidate.open(threads=THREADS)
    except Exception:  # of whatever type the runtime has for it
        return False
    return True


def _faster(one: Candidate, other: Candidate, images: list[NDArray[np.uint8]]) -> float:
    """How many times as fast the other is."""
    sessions = [candidate.open(threads=THREADS) for candidate in (one, other)]
    return interleaved(sessions[0], sessions[1], images, rounds=_ROUNDS).speedup
