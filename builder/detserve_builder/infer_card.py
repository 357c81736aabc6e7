"""Checkpoint, and what the user says -> detector card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.coco_labels import COCO_LABELS
from detserve_builder.errors import BuildError
from detserve_builder.families import FAMILIES, Draft, Family
from detserve_client.card import Card
from detserve_client.errors import CardError

MAX_CANDIDATES = 1000  # boxes that reach NMS, where the detector has as many and the card does not say


def infer_card(checkpoint: Checkpoint, *, name: str | None = None, said: Path | None = None) -> Card:
    """The card of ``checkpoint``: read off the graph, overridden by the fields of the JSON file ``said``.

    ``said`` may hold a few fields or a whole card; without it a card.json beside the checkpoint is taken.
    Raises :class:`BuildError` where no family fits and :class:`CardError` where a field is missing, wrong or
    contradicts the graph.
    """
    path = said or checkpoint.card_path
    fields = _read_fields(path) if path else {}
    family, draft = _recognise(checkpoint, fields.get("family") or checkpoint.card_fields.get("family"))
    guessed = {
        "name": checkpoint.path.stem,
        "family": family.name,
        "labels": _guess_labels(checkpoint, draft.num_classes),
        "candidates": MAX_CANDIDATES,
        "origin": {"source": checkpoint.path.name},
        **draft.card_fields,
    }
    merged = _merge(_merge(guessed, checkpoint.card_fields), fields)
    merged["name"] = name or merged["name"]
    recorded = merged["origin"].get("sha256") if isinstance(merged["origin"], dict) else None
    if recorded and recorded != checkpoint.sha256:
        raise CardError(
            f"{path}: origin.sha256: the card is of another file ({recorded[:12]}…), "
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
    """Every family that recognises the graph."""
    drafts = ((family, family.recognise(checkpoint)) for family in FAMILIES)
    return [(family, draft) for family, draft in drafts if draft is not None]


def _recognise(checkpoint: Checkpoint, said: str | None) -> tuple[Family, Draft]:
    outputs = "; ".join(map(str, checkpoint.outputs))
    fitting = families_that_fit(checkpoint)
    if said is not None:
        family = next((family for family in FAMILIES if family.name == said), None)
        if family is None:
            known = ", ".join(family.name for family in FAMILIES)
            raise CardError(f"card: family: got {said!r}, expected one of {known}")
        for fits, draft in fitting:
            if fits is family:
                return family, draft
        raise CardError(f"card: family: {said} expects {family.expects}, but the graph gives {outputs}")
    if not fitting:
        known = "; ".join(f"{family.name}: {family.expects}" for family in FAMILIES)
        raise BuildError(f"{checkpoint.path}: no known detector gives {outputs}; known are {known}")
    if len(fitting) > 1:
        names = " and ".join(family.name for family, _ in fitting)
        raise CardError(f"{checkpoint.path}: fits {names}; say which in the card's field family")
    return fitting[0]


def _check_against_graph(card: Card, family: Family, draft: Draft) -> None:
    input_wh = draft.card_fields.get("input_wh", list(card.input_wh))  # absent where the graph takes any size
    if list(card.input_wh) != input_wh:
        raise CardError(f"card: input_wh: got {list(card.input_wh)}, but the graph takes {input_wh}")
    try:
        family.head.model_validate(card.head)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("head", *first["loc"])))
        raise CardError(f"card: {where}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


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


def _guess_labels(checkpoint: Checkpoint, num_classes: int | None) -> list[str]:
    """COCO's 80 names for 80 classes, as published weights have them; numbers otherwise."""
    if num_classes == len(COCO_LABELS):
        return list(COCO_LABELS)
    return [f"class_{index}" for index in range(num_classes or 0)]
