"""What is tried: value range, colour order, resizing and padding, the columns of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detserve_builder.card_sources import InferredCard, Source, value_range
from detserve_builder.coco_labels import COCO_CATEGORY_IDS
from detserve_builder.families import FAMILIES
from detserve_core.card import Card, ColorOrder, Resize, Triple

Axis = Literal["values", "color", "geometry", "columns"]
AXES: tuple[Axis, ...] = ("values", "color", "geometry", "columns")
FIELDS: dict[Axis, tuple[str, ...]] = {
    "values": ("preprocess.scale", "preprocess.mean", "preprocess.std"),
    "color": ("preprocess.color",),
    "geometry": ("preprocess.resize", "preprocess.pad_value"),
    "columns": ("head.class_columns", "head.label_numbers"),  # whichever the family has
}
_SAME = 0.02  # of the span: such value ranges are one for a network
_PADS = (114, 0)
_COLUMN_FIELDS = ("class_columns", "label_numbers")


@dataclass(frozen=True)
class Values:
    """What pixels 0..255 become: ``(pixel * scale - mean) / std``; ``mean`` and ``std`` in the order RGB."""

    name: str
    scale: float
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    @property
    def ends(self) -> NDArray[np.float64]:
        """What 0 and 255 become, [2,3]."""
        pixels = np.array([[0.0], [255.0]]) * self.scale
        return np.asarray((pixels - np.array(self.mean)) / np.array(self.std), np.float64)

    def is_like(self, other: Values) -> bool:
        """Whether no network could tell the two apart."""
        span = float(np.ptp(self.ends))
        return bool(np.abs(self.ends - other.ends).max() <= _SAME * span)


STANDARD = (
    Values("0..1", 1 / 255),
    Values("0..255", 1.0),
    Values("ImageNet's mean and std", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Values("0..255 less Caffe's means", 1.0, (123.0, 117.0, 104.0)),
    Values("-1..1", 1.0, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
)


@dataclass(frozen=True)
class Setting:
    """One choice on every axis; ``columns`` is the score column or number of each label, or None."""

    values: Values
    color: ColorOrder
    geometry: tuple[Resize, int]
    columns: tuple[int, ...] | None

    def shown(self, axis: Axis) -> str:
        """The choice on ``axis``, for people."""
        if axis == "values":
            return self.values.name
        if axis == "color":
            return self.color.value
        if axis == "geometry":
            resize, pad_value = self.geometry
            return resize.value if resize is Resize.STRETCH else f"{resize.value} on {pad_value}"
        return _shown_columns(self.columns)


def setting_of(card: Card) -> Setting:
    """The setting that the card has now."""
    spec = card.preprocess
    mean, std = _in_rgb_order(spec.mean, spec.color), _in_rgb_order(spec.std, spec.color)
    own = Values(value_range(spec), spec.scale, mean, std)
    own = replace(own, name=next((values.name for values in STANDARD if values.is_like(own)), own.name))
    columns = card.head.get(column_field(card) or "")
    return Setting(own, spec.color, (spec.resize, spec.pad_value), tuple(columns) if columns else None)


def with_setting(card: Card, setting: Setting) -> Card:
    """The card with the setting's fields."""
    resize, pad_value = setting.geometry
    spec = card.preprocess.model_copy(
        update={
            "resize": resize,
            "pad_value": pad_value,
            "color": setting.color,
            "scale": setting.values.scale,
            "mean": _in_rgb_order(setting.values.mean, setting.color),
            "std": _in_rgb_order(setting.values.std, setting.color),
        }
    )
    updates: dict[str, Any] = {"preprocess": spec}
    field = column_field(card)
    if field and setting.columns is not None:
        updates["head"] = {**card.head, field: list(setting.columns)}
    return card.model_copy(update=updates)


def _in_rgb_order(of_channels: Triple, color: ColorOrder) -> Triple:
    """``of_channels`` in the order of ``color``, as RGB; or the other way round."""
    first, second, third = of_channels
    return (third, second, first) if color is ColorOrder.BGR else of_channels


def choices(inferred: InferredCard, *, labelled: bool) -> dict[Axis, list[Any]]:
    """The choices on each axis, that of the card first; one where graph or metadata settle it.

    Columns are tried with labels alone: without them nothing tells one class from another.
    """
    start = setting_of(inferred.card)
    found: dict[Axis, list[Any]] = {axis: [getattr(start, axis)] for axis in AXES}
    settled = (Source.GRAPH, Source.METADATA)
    if inferred.sources.get("preprocess.mean") not in settled:
        found["values"] += [values for values in STANDARD if not values.is_like(start.values)]
    if inferred.sources.get("preprocess.color") not in settled:
        found["color"] += [color for color in ColorOrder if color is not start.color]
    if inferred.sources.get("preprocess.resize") not in settled:
        found["geometry"] = _geometries(*start.geometry)
    if labelled:
        found["columns"] += _columns(inferred.card, start.columns)
    return found


def _geometries(resize: Resize, pad_value: int) -> list[tuple[Resize, int]]:
    pads = [pad_value, *(pad for pad in _PADS if pad != pad_value)]
    every = [(Resize.STRETCH, pad_value)]
    every += [(way, pad) for way in (Resize.LETTERBOX_CENTER, Resize.LETTERBOX_TOPLEFT) for pad in pads]
    return sorted(every, key=lambda geometry: geometry != (resize, pad_value))


def column_field(card: Card) -> str | None:
    """The head's field that says which score column or number each label has, where the family has one."""
    family = next(family for family in FAMILIES if family.name == card.family)
    return next((name for name in _COLUMN_FIELDS if name in family.head.model_fields), None)


def _columns(card: Card, now: tuple[int, ...] | None) -> list[tuple[int, ...]]:
    """Columns without and with one before them for the background, COCO's, and those of the card shifted."""
    if column_field(card) is None:
        return []
    count = len(card.labels)
    tried = [tuple(range(1, count + 1)), tuple(range(count))]
    if count == len(COCO_CATEGORY_IDS):
        tried += [tuple(COCO_CATEGORY_IDS), tuple(number - 1 for number in COCO_CATEGORY_IDS)]
    for shift in (1, -1):
        tried += [tuple(number + shift for number in now or () if number + shift >= 0)]
    return [columns for columns in dict.fromkeys(tried) if columns != now and len(columns) == count]


def _shown_columns(columns: Sequence[int] | None) -> str:
    if columns is None:
        return "as they come"
    if len(columns) > 1 and list(columns) == list(range(columns[0], columns[-1] + 1)):
        return f"{columns[0]} to {columns[-1]}"
    return ", ".join(map(str, columns[:3])) + (f", … {columns[-1]}" if len(columns) > 3 else "")
