"""What goes over the wire and how it is read back.

Nothing here does I/O, so that sync and async clients share it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_core import contract
from detserve_core.card import Card
from detserve_core.detections import Detections
from detserve_core.errors import CardError, ContractViolation, RequestRejected

Outputs = Mapping[str, NDArray[Any]]
"""The output tensors of one request by name, batch dimension included."""


@dataclass(frozen=True)
class SharedTensor:
    """The input tensor BYTES ``(1, 1)`` as the first ``size_bytes`` of a registered region."""

    region: str
    size_bytes: int


@dataclass(frozen=True)
class DetectionRequest:
    """Encoded pictures for one model, in one request, or one in shared memory and ``pictures`` empty.

    ``parameters`` are Triton's request parameters.
    """

    model: str
    pictures: tuple[bytes, ...]
    parameters: Mapping[str, float | int] = field(default_factory=dict)
    shared: SharedTensor | None = None

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.pictures) if self.shared is None else 1

    @property
    def picture(self) -> bytes:
        """The only picture; raises ``ValueError`` when there are several."""
        (picture,) = self.pictures
        return picture


def request_parameters(
    score_threshold: float | None, iou_threshold: float | None, max_detections: int | None
) -> dict[str, float | int]:
    """Map what overrides the card for one request to request parameters; None leaves the card's value.

    Raises:
        RequestRejected: a value is out of range.
    """
    parameters: dict[str, float | int] = {}
    for name, value in (
        (contract.SCORE_THRESHOLD, score_threshold),
        (contract.IOU_THRESHOLD, iou_threshold),
    ):
        if value is not None:
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise RequestRejected(f"{name} is {value}; expected 0 to 1")
            parameters[name] = float(value)
    if max_detections is not None:
        if max_detections < 1:
            raise RequestRejected(f"{contract.MAX_DETECTIONS} is {max_detections}; expected 1 or more")
        if max_detections != int(max_detections):
            raise RequestRejected(f"{contract.MAX_DETECTIONS} is {max_detections}; expected a whole number")
        parameters[contract.MAX_DETECTIONS] = int(max_detections)
    return parameters


def picture_tensor(pictures: Sequence[bytes]) -> bytes:
    """The content of the input tensor BYTES ``(n, 1)``: each picture behind its length in 4 bytes."""
    parts = []
    for picture in pictures:
        parts += [len(picture).to_bytes(4, "little"), picture]
    return b"".join(parts)


_DTYPES: dict[str, type[np.generic]] = {
    contract.NUM_DETECTIONS: np.int32,
    contract.BOXES: np.float32,
    contract.SCORES: np.float32,
    contract.CLASSES: np.int32,
}


def decode(outputs: Outputs, *, model: str, names: tuple[str, ...], pictures: int = 1) -> list[Detections]:
    """Check the output tensors of one request against the contract and cut off the padding.

    Raises:
        ContractViolation: a tensor is missing, has a wrong dtype or shape, or holds impossible values.
    """
    try:
        _check_tensors(outputs, pictures)
        return [_detections(outputs, row, names) for row in range(pictures)]
    except ValueError as error:
        raise ContractViolation(f"the answer of model {model!r} breaks the contract: {error}") from None


def _check_tensors(outputs: Outputs, pictures: int) -> None:
    for name in contract.OUTPUTS:
        if name not in outputs:
            raise ValueError(f"output {name} is missing; it has {_listed(outputs)}")
    rows = outputs[contract.SCORES].shape[-1] if outputs[contract.SCORES].ndim else 0
    shapes = {
        contract.NUM_DETECTIONS: (pictures, 1),
        contract.BOXES: (pictures, rows, 4),
        contract.SCORES: (pictures, rows),
        contract.CLASSES: (pictures, rows),
    }
    for name, shape in shapes.items():
        tensor = outputs[name]
        if tensor.dtype != _DTYPES[name] or tensor.shape != shape:
            expected = f"{np.dtype(_DTYPES[name])} {list(shape)}"
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}; expected {expected}")


def _detections(outputs: Outputs, row: int, names: tuple[str, ...]) -> Detections:
    scores = outputs[contract.SCORES][row]
    count = int(outputs[contract.NUM_DETECTIONS][row, 0])
    if not 0 <= count <= len(scores):
        raise ValueError(f"num_detections is {count}; expected 0 to {len(scores)}")
    scores = scores[:count]
    if (scores[1:] > scores[:-1]).any():
        raise ValueError("scores are not in descending order")
    boxes, classes = outputs[contract.BOXES][row, :count], outputs[contract.CLASSES][row, :count]
    return Detections(boxes=boxes, scores=scores, classes=classes, names=names)


def padded_outputs(detections: Detections, rows: int) -> dict[str, NDArray[Any]]:
    """The inverse of :func:`decode`: the best ``rows`` detections as output tensors padded to ``rows``."""
    order = np.argsort(-detections.scores, kind="stable")[:rows]
    count = len(order)
    boxes = np.zeros((1, rows, 4), np.float32)
    scores = np.zeros((1, rows), np.float32)
    classes = np.full((1, rows), -1, np.int32)
    boxes[0, :count] = detections.boxes[order]
    scores[0, :count] = detections.scores[order]
    classes[0, :count] = detections.classes[order]
    return {
        contract.NUM_DETECTIONS: np.array([[count]], np.int32),
        contract.BOXES: boxes,
        contract.SCORES: scores,
        contract.CLASSES: classes,
    }


def config_with(card: Card, max_batch_size: int = 8) -> dict[str, Any]:
    """The inverse of :func:`card_of`: the least configuration that says what ``card``'s ensemble is."""
    return {
        "name": card.name,
        "max_batch_size": max_batch_size,
        "input": [{"name": contract.IMAGE}],
        "output": [{"name": name} for name in contract.OUTPUTS],
        "parameters": {contract.CARD_PARAMETER: {"string_value": card.to_json()}},
    }


def card_of(config: Mapping[str, Any], model: str) -> Card:
    """The detector card in a model configuration.

    Raises:
        ContractViolation: there is none, or it is not a card.
    """
    fix = "so it is not a detector built by detserve; name the ensemble, not one of its steps"
    inputs, outputs = ([tensor["name"] for tensor in config.get(side, ())] for side in ("input", "output"))
    if contract.IMAGE not in inputs or not set(outputs).issuperset(contract.OUTPUTS):
        raise ContractViolation(
            f"model {model!r} takes {_listed(inputs)} and gives {_listed(outputs)}; expected "
            f"{contract.IMAGE} and {_listed(contract.OUTPUTS)}, {fix}"
        )
    try:
        text = config["parameters"][contract.CARD_PARAMETER]["string_value"]
    except (KeyError, TypeError):
        raise ContractViolation(
            f"model {model!r} has no parameter {contract.CARD_PARAMETER} in its configuration, {fix}"
        ) from None
    try:
        return Card.from_json(text, where=f"the card of model {model!r}")
    except CardError as error:
        raise ContractViolation(str(error)) from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
