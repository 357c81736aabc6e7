"""Whether large JPEGs may be decoded at reduced scale: where labelled pictures show that AP is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detserve_builder.graph.session import open_session
from detserve_builder.precision.candidate_accuracy import Truth, average_precision, labelled_dataset
from detserve_builder.precision.request import PrecisionRequest
from detserve_builder.precision.search import OnStep
from detserve_core.card import Card, Decode

if TYPE_CHECKING:
    import onnx

MAX_AP_DROP = 0.002


@dataclass(frozen=True)
class Decoding:
    """The ``card`` with what was chosen, and the float model's AP with it where it was measured.

    ``record`` is for the manifest: both figures.
    """

    card: Card
    float_ap: float | None = None
    record: dict[str, Any] = field(default_factory=dict)


def choose_decoding(
    model: onnx.ModelProto, card: Card, request: PrecisionRequest, on_step: OnStep
) -> Decoding:
    """Reduced where the prepared ``model`` keeps its AP within :data:`MAX_AP_DROP` on the labelled pictures.

    The card's own word goes before, and without labels, or without a picture that would be reduced, there is
    nothing to go by: whole.
    """
    said = "decode" in card.preprocess.model_fields_set
    if said or request.evaluate is None or request.images is None:
        return Decoding(card)
    truth = labelled_dataset(request.evaluate, request.images, card)
    count = _reducible(truth, card)
    if count == 0:
        return Decoding(card)
    session = open_session(model)
    ap = {}
    for decode in Decode:
        on_step(f"measuring AP with JPEGs decoded {decode.value}")
        ap[decode] = average_precision(session, decoded(card, decode), truth)
    kept = ap[Decode.REDUCED] >= ap[Decode.WHOLE] - MAX_AP_DROP
    chosen = Decode.REDUCED if kept else Decode.WHOLE
    record = {decode.value: round(figure, 4) for decode, figure in ap.items()}
    return Decoding(
        decoded(card, chosen), ap[chosen], {"figure": "AP", **record, "pictures_that_differ": count}
    )


def decoded(card: Card, decode: Decode) -> Card:
    """The card with this way to decode."""
    return card.model_copy(update={"preprocess": card.preprocess.model_copy(update={"decode": decode})})


def _reducible(truth: Truth, card: Card) -> int:
    """How many of the pictures are JPEGs so large that they would be reduced."""
    from detserve_builder.steps.detserve_preprocess import jpeg_reduction, jpeg_size

    sizes = [jpeg_size(picture.path.read_bytes()) for picture in truth.dataset.read()]
    resize = card.preprocess.resize.value
    return sum(jpeg_reduction(size, input_wh=card.input_wh, resize=resize) > 1 for size in sizes)
