"""The detector card: what must be known about a detector beside its weights; card.json beside the ONNX."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detserve_client.errors import CardError


class Resize(str, Enum):
    """How a picture of any size becomes one of the network's size (all use bilinear interpolation)."""

    LETTERBOX_CENTER = "letterbox_center"
    LETTERBOX_TOPLEFT = "letterbox_topleft"
    STRETCH = "stretch"


class ColorOrder(str, Enum):
    """Channel order the network was trained with."""

    RGB = "rgb"
    BGR = "bgr"


class Decode(str, Enum):
    """How a JPEG much larger than the network's input is decoded: whole, or 2, 4 or 8 times smaller.

    Reduced is faster, and averages pixels where the resize of a whole picture skips some: scores move, and
    are not those of a PNG of the same picture, which is always whole.
    """

    WHOLE = "whole"
    REDUCED = "reduced"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Size = Annotated[int, Field(gt=0)]
Wh = tuple[_Size, _Size]
Triple = tuple[float, float, float]
_Positive = Annotated[float, Field(gt=0)]


class PreprocessSpec(_Strict):
    """How pixels reach the network: decode, resize, then ``(pixel * scale - mean) / std`` in ``color`` order.

    It is written once and read by calibration, by the served preprocess model and by the prepared ONNX.
    """

    decode: Decode = Decode.WHOLE
    resize: Resize
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    color: ColorOrder = ColorOrder.RGB
    scale: Annotated[float, Field(gt=0)] = 1.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: tuple[_Positive, _Positive, _Positive] = (1.0, 1.0, 1.0)


class Thresholds(_Strict):
    """Defaults that a request may override."""

    score: Annotated[float, Field(ge=0, le=1)] = 0.25
    iou: Annotated[float, Field(gt=0, le=1)] = 0.45
    max_detections: Annotated[int, Field(gt=0, le=1000)] = 100


class Origin(_Strict):
    """Where the weights came from. ``sha256`` is that of the checkpoint file."""

    source: str = ""
    license: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""


class Card(_Strict):
    """The detector card.

    ``candidates`` is K of the prepared ONNX: how many boxes, best first, reach NMS.
    ``head`` holds what the family's decoder needs; its fields are the family's own and checked by it.
    """

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    family: Annotated[str, Field(min_length=1)]
    input_wh: Wh
    preprocess: PreprocessSpec
    head: dict[str, Any] = Field(default_factory=dict)
    labels: Annotated[list[str], Field(min_length=1)]
    thresholds: Thresholds = Thresholds()
    candidates: Annotated[int, Field(gt=0)] = 1000
    max_picture_pixels: Annotated[int, Field(gt=0)] = 50_000_000
    origin: Origin = Origin()

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "card") -> Card:
        """Parse and validate; raises :class:`CardError` naming the first wrong field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CardError(first_mistake(error, where)) from None

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read ``card.json``; raises :class:`CardError` when it is absent or wrong."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise CardError(f"{path}: the card cannot be read ({error.strerror})") from None
        return cls.from_json(text, where=str(path))

    def to_json(self) -> str:
        """Indented JSON with every field, defaults too."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def first_mistake(error: ValidationError, where: str, *, inside: tuple[str, ...] = ()) -> str:
    """One sentence for what pydantic found first: the field, below ``inside``, what is wrong, what came."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, (*inside, *first["loc"]))) or "the whole file"
    wrong = first["msg"].removeprefix("Value error, ")
    says_what_came = first["type"] in ("missing", "value_error")
    came = "" if says_what_came else f", got {json.dumps(first['input'], default=str)[:80]}"
    return f"{where}: {field}: {wrong[0].lower()}{wrong[1:]}{came}"
