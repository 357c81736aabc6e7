"""The detector card: what must be known about a detector beside its weights; card.json beside the ONNX."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detserve_core.errors import CardError


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
    resize: Resize = Field(
        description="How a picture of any size becomes one of the network's size, bilinear."
    )
    pad_value: Annotated[int, Field(ge=0, le=255)] = Field(
        114, description="Grey of the pixels that a letterbox adds; without meaning for stretch."
    )
    color: ColorOrder = Field(ColorOrder.RGB, description="Channel order the network was trained with.")
    scale: Annotated[float, Field(gt=0)] = Field(
        1.0, description="What pixels 0..255 are multiplied with.", examples=[1 / 255]
    )
    mean: Triple = Field(
        (0.0, 0.0, 0.0),
        description="Subtracted after the scale, in the order of color.",
        examples=[(0.485, 0.456, 0.406)],
    )
    std: tuple[_Positive, _Positive, _Positive] = Field(
        (1.0, 1.0, 1.0),
        description="The last step divides by it, in the order of color.",
        examples=[(0.229, 0.224, 0.225)],
    )


class Thresholds(_Strict):
    """Defaults that a request may override."""

    score: Annotated[float, Field(ge=0, le=1)] = Field(0.25, description="Least score of a detection.")
    iou: Annotated[float, Field(gt=0, le=1)] = Field(
        0.45, description="Overlap above which the lesser of two boxes of a class is dropped; 1 drops none."
    )
    max_detections: Annotated[int, Field(gt=0, le=1000)] = Field(
        100, description="Most detections of a picture, and the rows of the served outputs."
    )


class Origin(_Strict):
    """Where the weights came from. ``sha256`` is that of the checkpoint file."""

    source: str = Field("", description="File or address.", examples=["yolox_nano.onnx"])
    license: str = Field("", description="Licence of the weights.", examples=["Apache-2.0"])
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = Field(
        "", description="Of the checkpoint file; the card is refused for another one.", examples=["0" * 64]
    )


class Card(_Strict):
    """The detector card.

    ``candidates`` is K of the prepared ONNX: how many boxes, best first, reach NMS.
    ``head`` holds what the family's decoder needs; its fields are the family's own and checked by it.
    """

    schema_version: Annotated[int, Field(ge=1, le=1)] = Field(1, description="Version of this schema.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] = Field(
        description="What it is served as: letters, digits, _ and -.", examples=["my_detector"]
    )
    family: Annotated[str, Field(min_length=1)] = Field(
        description="Which decoder reads its outputs.", examples=["yolov8"]
    )
    input_wh: Wh = Field(
        description="Width and height of the network's input in pixels.", examples=[(640, 480)]
    )
    preprocess: PreprocessSpec = Field(description="How pixels reach the network.")
    head: dict[str, Any] = Field(
        default_factory=dict, description="What the family's decoder needs, see the families."
    )
    labels: Annotated[list[str], Field(min_length=1)] = Field(
        description="Names of the classes, in the order of the network's.", examples=[["cat", "dog"]]
    )
    thresholds: Thresholds = Field(Thresholds(), description="Defaults that a request may override.")
    candidates: Annotated[int, Field(gt=0)] = Field(
        1000, description="How many boxes, best first, reach non-maximum suppression."
    )
    max_picture_pixels: Annotated[int, Field(gt=0)] = Field(
        50_000_000, description="A picture of more pixels is refused."
    )
    origin: Origin = Field(Origin(), description="Where the weights came from.")

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "card") -> Card:
        """Parse and validate; raises :class:`CardError` naming the first wrong field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CardError(first_mistake(error, where, model=cls)) from None

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


def first_mistake(
    error: ValidationError,
    where: str,
    *,
    inside: tuple[str, ...] = (),
    model: type[BaseModel] | None = None,
) -> str:
    """One sentence for what pydantic found first: the field, below ``inside``, what is wrong, what came.

    ``model``, which was to be read, says what an unknown field could have been.
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, (*inside, *first["loc"]))) or "the whole file"
    wrong = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden" and model is not None:
        wrong = f"no such field; {_instead(model, first['loc'])}"
    says_what_came = first["type"] in ("missing", "value_error", "extra_forbidden")
    came = "" if says_what_came else f", got {json.dumps(first['input'], default=str)[:80]}"
    return f"{where}: {field}: {wrong[0].lower()}{wrong[1:]}{came}"


def _instead(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The name that was perhaps meant, and all that there are."""
    schema = model.model_json_schema()
    fields = schema["properties"]
    for part in place[:-1]:
        fields = _fields_of(fields.get(part, {}), schema) or fields
    meant = {name: name for name in fields}
    for name, field in fields.items():
        for below in _fields_of(field, schema):
            meant.setdefault(below, f"{name}.{below}")
    near = get_close_matches(str(place[-1]), meant, n=1)
    return (f"did you mean {meant[near[0]]}? " if near else "") + f"there are {', '.join(fields)}"


def _fields_of(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The fields of the model that ``field`` holds, if any."""
    referred = re.search(r'"#/\$defs/([^"]+)"', json.dumps(field))
    fields: dict[str, Any] = schema["$defs"][referred[1]].get("properties", {}) if referred else {}
    return fields
