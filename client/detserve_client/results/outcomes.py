"""What became of one picture of many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from detserve_client.pictures.encoding import PictureSource
from detserve_core.detections import Detections
from detserve_core.errors import InferenceError, SourceError


@dataclass(frozen=True)
class Detected:
    """A source with its detections.

    ``latency_s`` is the time from taking the source in hand to its detections: reading, encoding and the wait
    behind other requests in flight included; for the pictures of a batch that of their common request.
    ``index`` is the source's place among those handed in, from 0.
    """

    source: PictureSource
    detections: Detections
    latency_s: float = 0.0
    index: int = 0
    ok: Literal[True] = True
    error: None = None

    def get(self) -> Detections:
        """The detections."""
        return self.detections


@dataclass(frozen=True)
class Failed:
    """A source without detections, and the ``error`` that says why; ``index`` as in :class:`Detected`."""

    source: PictureSource
    error: InferenceError | SourceError
    index: int = 0
    ok: Literal[False] = False
    detections: None = None

    def get(self) -> Detections:
        """Raise ``error``."""
        raise self.error


Outcome: TypeAlias = Detected | Failed
"""What became of one source: ``if outcome.ok:`` there are ``outcome.detections``, else ``outcome.error``."""


def of_several(outcome: Outcome, what: str = "picture", number: int | None = None) -> Detections:
    """The detections of one of several pictures; an error says which it is, by ``number`` or its index."""
    if outcome.ok:
        return outcome.detections
    text, source = str(outcome.error), outcome.source
    which = f"{what} {outcome.index if number is None else number}"
    if isinstance(source, (str, Path)) and str(source) not in text:
        which += f" ({source})"
    raise type(outcome.error)(f"{which} failed: {text}") from outcome.error
