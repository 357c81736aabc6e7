"""The detector opened once for every preprocessing: normalisation is done outside of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.card_search.settings import Setting, with_setting
from detserve_builder.checkpoint import Checkpoint
from detserve_builder.graph.session import open_session
from detserve_builder.preparation.prepare import prepare_for_floats
from detserve_core.card import Card, ColorOrder, PreprocessSpec
from detserve_core.errors import CardError

if TYPE_CHECKING:
    from detserve_builder.steps.detserve_detector import Session


@dataclass(frozen=True)
class Normalised:
    """A session that takes ``images`` uint8 RGB as a prepared network does, with any normalisation."""

    session: Any
    spec: PreprocessSpec

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[np.uint8]]) -> list[NDArray[Any]]:
        """Normalise and run."""
        found: list[NDArray[Any]] = self.session.run(
            outputs, {"images": normalised(feed["images"], self.spec)}
        )
        return found


@dataclass
class Networks:
    """The sessions of a checkpoint, by class columns; another column is another graph."""

    checkpoint: Checkpoint
    card: Card
    _opened: dict[tuple[int, ...] | None, Any] = field(default_factory=dict)

    def opened(self, setting: Setting) -> tuple[Session, Card] | None:
        """Session and card of a setting; None where the graph has no such columns."""
        card = with_setting(self.card, setting)
        if setting.columns not in self._opened:
            try:
                session = open_session(prepare_for_floats(self.checkpoint, card))
            except CardError:
                session = None
            self._opened[setting.columns] = session
        session = self._opened[setting.columns]
        return None if session is None else (Normalised(session, card.preprocess), card)


def normalised(images: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """``images`` uint8 [N,H,W,3] RGB as the network wants them, as the prepared graph does it."""
    ordered = images[..., ::-1] if spec.color is ColorOrder.BGR else images
    factor = np.float32(spec.scale) / np.array(spec.std, np.float32)
    shift = np.array(spec.mean, np.float32) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(ordered * factor - shift, np.float32)
