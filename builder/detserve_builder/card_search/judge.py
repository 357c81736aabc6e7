"""How good a setting is on a number of pictures, and whether others would say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detserve_builder.card_search.settings import Setting

RESAMPLES = 200
IMPOSSIBLE = float("-inf")  # the score where the graph has no such columns
CERTAIN = 0.95  # of the resamples must agree


class Judge(Protocol):
    """Scores settings by labels, or without them."""

    figure: str
    worthless: float  # a best score below this means that nothing is found

    @property
    def pictures(self) -> Sequence[int]:
        """Indices of all pictures."""

    def score(self, setting: Setting, pictures: Sequence[int], *, of_any_class: bool = False) -> float:
        """The higher the better; ``of_any_class`` leaves out of account what class a box is of."""

    def resampled(self, setting: Setting) -> NDArray[np.float64]:
        """The score on all pictures with the weights of :func:`weights`, [RESAMPLES]."""

    def reported(self, setting: Setting) -> str:
        """The figure for people on all pictures, with its name."""


OnPicture = Callable[[], None]
"""Told of each picture that has been through the network."""


@dataclass(frozen=True)
class Lead:
    """By how much one setting is better than another, and in what share of the resampled pictures."""

    difference: float
    share: float

    @property
    def certain(self) -> bool:
        """Whether other pictures would hardly turn it round."""
        return self.difference > 0 and self.share >= CERTAIN


def lead(judge: Judge, first: Setting, second: Setting) -> Lead:
    """How far ``first`` is ahead of ``second``."""
    difference = judge.resampled(first) - judge.resampled(second)
    ahead = judge.score(first, judge.pictures) - judge.score(second, judge.pictures)
    return Lead(ahead, float((difference > 1e-9).mean()))


def weights(pictures: int) -> NDArray[np.float64]:
    """Bayesian bootstrap (Rubin 1981): exponential weights of the pictures, mean 1, [RESAMPLES,pictures]."""
    drawn = np.random.default_rng(0).exponential(size=(RESAMPLES, pictures))
    return np.asarray(drawn / drawn.mean(axis=1, keepdims=True))
