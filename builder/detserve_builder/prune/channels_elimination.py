"""Optimal Brain Surgeon over channels: what a reader loses with each, and how the others make up for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detserve_builder.prune.channels_moments import Floats, Moments


@dataclass
class Elimination:
    """One reader while channels of a group leave it, the others making up for them.

    ``columns`` [G,B] are the places of each channel's weights, ``inverse`` [D,D] of the covariance.
    """

    weight: Floats
    inverse: Floats
    columns: NDArray[np.int64]
    variance: float

    @classmethod
    def of(
        cls, weight: NDArray[np.float32], seen: Moments, read: NDArray[np.int64], channels: NDArray[np.int64]
    ) -> Elimination:
        """Of ``weight`` [out,in,h,w], which reads the channels ``read`` [in]; ``channels`` [G] may go."""
        flat = weight.reshape(len(weight), -1).astype(np.float64)
        kernel = weight[0, 0].size
        columns = np.stack(
            [
                (np.flatnonzero(read == channel)[:, None] * kernel + np.arange(kernel)).ravel()
                for channel in channels
            ]
        )
        variance = float(np.einsum("od,de,oe->", flat, seen.covariance, flat, optimize=True))
        return cls(flat, np.linalg.inv(seen.covariance), columns, max(variance, 1e-30))

    def costs(self) -> Floats:
        """Error of the reader without each channel [G], as a share of the variance of what it makes."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        own = self.weight[:, self.columns].transpose(1, 2, 0)  # [G,B,out]
        alive = np.abs(blocks).sum(axis=(1, 2)) > 0
        costs = np.full(len(self.columns), np.inf)
        costs[alive] = np.einsum("gbo,gbo->g", own[alive], np.linalg.solve(blocks[alive], own[alive]))
        return costs / self.variance

    def eliminate(self, index: int) -> None:
        """Take the channel out: what it gave is regressed on the others."""
        columns = self.columns[index]
        across = np.linalg.solve(self.inverse[np.ix_(columns, columns)], self.inverse[columns])
        self.weight = self.weight - self.weight[:, columns] @ across
        self.inverse = self.inverse - self.inverse[:, columns] @ across
        self.inverse[columns], self.inverse[:, columns] = 0, 0
        self.weight[:, columns] = 0
