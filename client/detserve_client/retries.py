"""When and how long to wait before another try."""

from __future__ import annotations

import random
from collections.abc import Iterator

_RETRIES = 3
_FIRST_PAUSE_S = 0.1


def pauses_s() -> Iterator[float]:
    """The pause before each retry: exponential with jitter, 50 to 100% of 0.1, 0.2 and 0.4 seconds."""
    for retry in range(_RETRIES):
        yield _FIRST_PAUSE_S * 2**retry * random.uniform(0.5, 1.0)  # noqa: S311
