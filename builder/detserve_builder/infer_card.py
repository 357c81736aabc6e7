"""Checkpoint, and what the user says -> detector card."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.coco_labels import COCO_LABELS
from detserve_builder.errors import BuildError
from detserve_builder.families import FAMILIES, Draft, Family
from detserve_client.card import Card, first_mistake
from detserve_client.errors import CardError

MAX_CANDIDATES = 1000  # boxes that reach NMS, where the detector has as many and the card does not say


def infer_card(checkpoint: Checkpoint, *, name: str | None = None, said: Path | None = None) -> Card:
    """The card of ``checkpoint``: read off the graph, overridden by the fields of the JSON file ``said``.

    ``said`` may hold a few fields or a whole card; it goes before a card.json beside the checkpoint, and that
    before what the file format says and what the graph shows.
    Raises :class:`BuildError` where no family fits and :class:`CardError` where a field is missing, wrong or
    contradicts the graph.
    """
    path = said or checkpoint.card_path
    fields: dict[str, Any] = dict(checkpoint.card_fields)
    for card_file in (checkpoint.card_path, said):
        fields = _merge(fields, _read_fields(card_file)) if card_file else fields
    family, draft = _recognise(checkpoint, fields.get("family"))
    guessed = {
        "name": _guess_name(checkpoint.path),
        "family": family.name,
        "labels": _guess_labels(checkpoint, draft.num_classes),
        "candidates": MAX_CANDIDATES,
        "origin": {"source": checkpoint.path.name},
        **draft.card_fields,
    }
    merged = _merge(guessed, fields)
    merged["name"] = name or merged["name"]
    if isinstance(merged["origin"], dict):
        recorded = merged["origin"].get("sha256")
        if recorded and recorded != checkpoint.sha256:
            raise CardError(
                f"{path}: origin.sha256: the card is of another file ({recorded:.12}…), "
                f"{checkpoint.path.name} is {checkpoint.sha256[:12]}…; correct or remove the field"
            )
        merged["origin"] = {**merged["origin"], "sha256": checkpoint.sha256}
    card = Card.from_json(json.dumps(merged), where=str(path or checkpoint.path))
    _check_against_graph(card, family, draft)
    anchors = family.num_anchors(card)
    if card.candidates > anchors:
        if "candidates" in fields:
            raise CardError(
                f"card: candidates: got {card.candidates}, but the detector has {anchors} anchors"
            )
        card = card.model_copy(update={"candidates": anchors})
    return card


def families_that_fit(checkpoint: Checkpoint) -> list[tuple[Family, Draft]]:
    """Every family that recognises the graph, of those that need not be named."""
    drafts = ((family, family.recognise(checkpoint)) for family in FAMILIES if not family.only_when_named)
    return [(family, draft) for family, draft in drafts if draft is not None]


def _recognise(checkpoint: Checkpoint, said: str | None) -> tuple[Family, Draft]:
    outputs = "; ".join(map(str, checkpoint.outputs))
    if said is not None:
        family = next((family for family in FAMILIES if family.name == said), None)
        if family is None:
            known = ", ".join(family.name for family in FAMILIES)
            raise CardError(f"card: family: got {said!r}, expected one of {known}")
        draft = family.recognise(checkpoint)
        if draft is None:
            raise CardError(f"card: family: {said} expects {family.expects}, but the graph gives {outputs}")
        return family, draft
    fitting = families_that_fit(checkpoint)
    if not fitting:
        raise BuildError(_nothing_fits(checkpoint, outputs))
    if len(fitting) > 1:
        names = " and ".join(family.name for family, _ in fitting)
        raise CardError(f"{checkpoint.path}: fits {names}; say which in the card's field family")
    return fitting[0]


def _nothing_fits(checkpoint: Checkpoint, outputs: str) -> str:
    image = next(iter(checkpoint.inputs), None)
    if image is not None and len(image.shape) == 4 and not all(isinstance(n, int) for n in image.shape[2:]):
        return (
            f"{checkpoint.path}: the size of the input {image} is not fixed; "
            "export it with a height and a width"
        )
    known = ", ".join(family.name for family in FAMILIES if not family.only_when_named)
    return (
        f"{checkpoint.path}: no known detector gives {outputs}; known are {known}; "
        "a card of the family generic can describe another"
    )


def _check_against_graph(card: Card, family: Family, draft: Draft) -> None:
    input_wh = draft.card_fields.get("input_wh", list(card.input_wh))  # absent where the graph takes any size
    if list(card.input_wh) != input_wh:
        raise CardError(f"card: input_wh: got {list(card.input_wh)}, but the graph takes {input_wh}")
    try:
        family.head.model_validate(card.head)
    except ValidationError as error:
        raise CardError(first_mistake(error, "card", inside=("head",))) from None


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise CardError(f"{path}: the card cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CardError(f"{path}: the card is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise CardError(f"{path}: the card is a JSON {type(fields).__name__}, expected an object")
    return fields


def _merge(guessed: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What the user says wins, field by field."""
    merged = dict(guessed)
    for key, value in said.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _guess_name(path: Path) -> str:
    """The file's name with what a served name may not hold replaced."""
    return re.sub("[^A-Za-z0-9_-]+", "_", path.stem).lstrip("_-")[:64] or "detector"


def _guess_labels(checkpoint: Checkpoint, num_classes: int | None) -> list[str]:
    """The file's own names; COCO's 80 for 80 classes, as published weights have them; or else numbers."""
    named = _names_in_metadata(checkpoint)
    if named:
        return named
    if num_classes == len(COCO_LABELS):
        return list(COCO_LABELS)
    return [f"class_{index}" for index in range(num_classes or 0)]


def _names_in_metadata(checkpoint: Checkpoint) -> list[str]:
    """Ultralytics writes ``names``, a Python dict or list; untrained networks have numbers there."""
    written = next((entry.value for entry in checkpoint.model.metadata_props if entry.key == "names"), "")
    try:
        names = ast.literal_eval(written)
    except (ValueError, SyntaxError):
        return []
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or names == [str(index) for index in range(len(names))]:
        return []
    return [str(name) for name in names]
