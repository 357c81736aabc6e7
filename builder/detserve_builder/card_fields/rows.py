"""A pydantic model -> one row for each field: type and choices, default, example, meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

Json = Mapping[str, Any]
# What heads of several families hold, where a head does not say it itself.
TERMS = {
    "strides": "Input pixels that a cell of each feature map stands for, finest map first.",
    "stride": "Input pixels that a cell of the feature map stands for.",
    "anchors_wh_px": "For each stride the widths and heights of its anchors, in network pixels.",
    "reg_max": "The bins of a distance's distribution; NanoDet's and PicoDet's have one more.",
    "sigmoid_in_graph": "Whether the scores have been through a sigmoid in the graph.",
    "num_anchors": "A, the rows of the outputs.",
    "anchors": "A, the rows of the outputs.",
    "boxes_output": "Name of the output that holds the boxes.",
    "boxes_columns": "Columns of the box, [start, end).",
    "scores_columns": "Columns of the scores, [start, end).",
    "activation": "What turns the scores of the graph into 0..1.",
    "coding": "What the four numbers of a box are against its prior; decoded: the graph has done it.",
    "names": "Names of the tensors.",
    "new_coords": "Darknet's new_coords: sizes are (2 * t)^2 * anchor, without exp.",
    "cells_wh": "Columns and rows of the map.",
    "cell_offset": "Where in its cell a prior's centre lies, in shares of the cell.",
    "units": "Network pixels, or shares of the network's width and height.",
    "output": "Name of the output.",
    "column": "Which column of the output it is, or begins at.",
    "step_px": "Distance of neighbouring cells in network pixels.",
}
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class FieldRow:
    """One field; ``default`` is "required" where there is none, ``example`` is JSON."""

    name: str
    type: str
    default: str
    example: str
    meaning: str


def field_rows(model: type[BaseModel], inside: str = "") -> Iterator[FieldRow]:
    """The fields of ``model`` and, dotted, of the models in it, in their order."""
    schema = model.model_json_schema()
    yield from _rows(schema, schema.get("$defs", {}), inside)


def _rows(schema: Json, models: Json, inside: str) -> Iterator[FieldRow]:
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        default = "required" if required else json.dumps(field.get("default"))
        nested, place = _model_in(field, models)
        if nested is not None and "default" in field:
            default = "its defaults" if field["default"] is not None else "null"
        yield FieldRow(
            f"{inside}{name}",
            _type(field, models),
            default if len(default) <= 40 else "…",
            json.dumps(example(field, models)),
            _meaning(name, field, schema, models),
        )
        if nested is not None:
            yield from _rows(nested, models, f"{inside}{name}{place}.")


def example(field: Json, models: Json) -> Any:
    """A value that the field takes: the first of its examples, its default, or one made up from its type."""
    if field.get("examples"):
        return field["examples"][0]
    if field.get("default") not in (None, {}, [], ""):
        return field["default"]
    field = _whole(field, models)
    if "enum" in field or "const" in field:
        return field.get("const", field.get("enum", [None])[0])
    if "prefixItems" in field:
        return [example(item, models) for item in field["prefixItems"]]
    made: dict[str, Any] = {"string": "name", "boolean": True, "null": None}
    kind = field.get("type", "object")
    if kind == "array":
        return [example(field.get("items", {"type": "string"}), models)] * max(1, field.get("minItems", 1))
    if kind in ("integer", "number"):
        return field.get("minimum", field.get("exclusiveMinimum", 0) + 1)
    if kind == "object":
        properties = field.get("properties", {})
        return {name: example(properties[name], models) for name in field.get("required", ())}
    return made[kind]


def _whole(field: Json, models: Json) -> Json:
    """What a reference refers to, and of several types the first that is not null."""
    if "$ref" in field:
        return {**models[field["$ref"].rpartition("/")[2]], **{k: v for k, v in field.items() if k != "$ref"}}
    for key in ("allOf", "anyOf", "oneOf"):
        for choice in field.get(key, ()):
            if choice.get("type") != "null":
                return _whole(choice, models)
    return field


def _model_in(field: Json, models: Json) -> tuple[Json | None, str]:
    """The model that a field or the items of its list are, and ``[]`` for the list."""
    whole, place = _whole(field, models), ""
    while whole.get("type") == "array" and "items" in whole:
        whole, place = _whole(whole["items"], models), f"{place}[]"
    return (whole, place) if "properties" in whole else (None, place)


def _type(field: Json, models: Json) -> str:
    if "$ref" in field:
        return _type(_whole(field, models), models)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(_type(choice, models) for choice in field[key])
    if "const" in field or "enum" in field:
        return "one of " + ", ".join(map(str, field.get("enum", [field.get("const")])))
    if "prefixItems" in field:
        return f"[{', '.join(_type(item, models) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {'type': 'any'}), models)}"
    limits = [f" {sign} {field[key]:g}" for key, sign in _LIMITS.items() if key in field]
    return str(field.get("type", "any")) + " and".join(limits)


def _meaning(name: str, field: Json, schema: Json, models: Json) -> str:
    """The field's description; or the sentences of the model's docstring that name it; or its type's."""
    if "description" in field:
        return _one_line(str(field["description"]))
    text = _one_line(schema.get("description", ""))
    naming = [part for part in re.split(r"(?<=[.;])\s+", text) if f"``{name}``" in part]
    if naming:
        said = re.sub(rf"^``{name}``: ", "", " ".join(naming)).rstrip(";.")
        return said[0].upper() + said[1:] + "."
    nested, _ = _model_in(field, models)
    of_type = _one_line((nested or _whole(field, models)).get("description", ""))
    return of_type or TERMS.get(name, "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
