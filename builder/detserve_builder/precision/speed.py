"""Time of a model against the float one, in this process, in one run.

It is the CPU time of the process: on one thread, what the call takes on a quiet machine. Beside other
programs the time on the clock is theirs too, and would choose by chance.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.steps.detserve_detector import OUTPUTS

if TYPE_CHECKING:
    from detserve_builder.steps.detserve_detector import Session

THREADS = 1  # as the served detector has
_WARM_UPS = 3
_ROUNDS = 40


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds; ``speedup`` is that of the ratios of neighbouring runs."""

    float_ms: float
    candidate_ms: float
    speedup: float


def interleaved(
    floats: Session, candidate: Session, images: list[NDArray[np.uint8]], *, rounds: int = _ROUNDS
) -> Speed:
    """Run float, candidate, float, candidate, … at batch 1 on ``images`` (uint8 [1,H,W,3]).

    What slows the machine meets both alike, so the ratio holds where the times do not.
    """
    took_ms = np.empty((rounds, 2))
    for turn in range(-_WARM_UPS, rounds):
        image = images[turn % len(images)]
        for index, session in enumerate((floats, candidate)):
            took = _run_ms(session, image)
            if turn >= 0:
                took_ms[turn, index] = took
    float_ms, candidate_ms = np.median(took_ms, axis=0)
    return Speed(float(float_ms), float(candidate_ms), float(np.median(took_ms[:, 0] / took_ms[:, 1])))


def _run_ms(session: Session, image: NDArray[np.uint8]) -> float:
    started_s = time.process_time()
    session.run(OUTPUTS, {"images": image})
    return (time.process_time() - started_s) * 1e3
