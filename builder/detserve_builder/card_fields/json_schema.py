"""The JSON schema of a card, with the head of each family."""

from __future__ import annotations

from typing import Any

from detserve_builder.families import FAMILIES
from detserve_core.card import Card

Json = dict[str, Any]


def card_schema() -> Json:
    """JSON schema (draft 2020-12) of a whole card; ``family`` decides what ``head`` holds."""
    schema = Card.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["family"]["enum"] = [family.name for family in FAMILIES]
    schema["properties"]["head"] = {"type": "object", "description": Card.model_fields["head"].description}
    schema["allOf"] = []
    for family in FAMILIES:
        head = family.head.model_json_schema(ref_template=f"#/$defs/{family.name}_{{model}}")
        for name, definition in head.pop("$defs", {}).items():
            schema["$defs"][f"{family.name}_{name}"] = definition
        schema["allOf"].append(
            {
                "if": {"properties": {"family": {"const": family.name}}},
                "then": {"properties": {"head": head}},
            }
        )
    return schema
