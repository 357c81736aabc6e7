"""Checkpoint, and what the user says -> detector card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detserve_builder.card_sources import InferredCard, Source, sources_of
from detserve_builder.checkpoint import Checkpoint, at_size
from detserve_builder.checkpoint.image_input import image_input, input_size_is_fixed
from detserve_builder.checkpoint.names import labels_of, written_names
from detserve_builder.checkpoint.normalisation import own_normalisation
from detserve_builder.coco_labels import COCO_LABELS
from detserve_builder.errors import BuildError, naming_the_card
from detserve_builder.families import FAMILIES, Draft, Family
from detserve_core.card import Card, Wh, first_mistake
from detserve_core.errors import CardError

UNTOLD_CLASSES = 100  # numbered labels where a file gives class numbers and not how many there are
MAX_CANDIDATES = 1000  # boxes that reach NMS, where the detector has as many and the card does not say


def infer_card(checkpoint: Checkpoint, *, name: str | None = None, said: Path | None = None) -> Card:
    """The card of ``checkpoint`` by :func:`read_card`, without its sources."""
    return read_card(checkpoint, name=name, said=said).card


def read_card(
    checkpoint: Checkpoint,
    *,
    name: str | None = None,
    said: Path | None = None,
    input_wh: Wh | None = None,
) -> InferredCard:
    """The card of ``checkpoint``: read off the graph, overridden by the fields of the JSON file ``said``.

    ``said`` may hold a few fields or a whole card; it goes before a card.json beside the checkpoint, and that
    before what the file format says and what the graph shows. ``input_wh`` is said, too.
    Raises :class:`BuildError` where no family fits and :class:`CardError` where a field is missing, wrong or
    contradicts the graph.
    """
    with naming_the_card(said or checkpoint.card_path, checkpoint.path):
        return _read_card(checkpoint, name, said, input_wh)


def _read_card(
    checkpoint: Checkpoint, name: str | None, said: Path | None, input_wh: Wh | None
) -> InferredCard:
    path = said or checkpoint.card_path
    fields: dict[str, Any] = dict(checkpoint.card_fields)
    for card_file in (checkpoint.card_path, said):
        fields = _merge(fields, _read_fields(card_file)) if card_file else fields
    if input_wh is not None:
        fields["input_wh"] = list(input_wh)
    checkpoint = _of_said_size(checkpoint, fields.get("input_wh"))
    family, draft = _recognise(checkpoint, fields.get("family"))
    in_graph, unsettled = _seen_in_graph(checkpoint)
    draft = _unsettled(draft, unsettled)
    labels, labels_are, why_not = _labels(checkpoint, draft)
    found = {
        "name": _guess_name(checkpoint.path),
        "family": family.name,
        "labels": labels,
        "candidates": MAX_CANDIDATES,
        "origin": {"source": checkpoint.path.name},
        **_merge(draft.card_fields, in_graph),
    }
    merged = _merge(found, fields)
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
    if labels_are is Source.GUESS:
        others = "the names in the order the network was trained with"
        guess = {"labels": f"{others} ({why_not})" if why_not else others}
        draft = replace(draft, guesses={**guess, **draft.guesses})
    from_metadata = {"labels"} if labels_are is Source.METADATA else set()
    if "input_wh" not in fields and not input_size_is_fixed(checkpoint.original):
        from_metadata.add("input_wh")
    from_graph = frozenset(f"preprocess.{field}" for field in in_graph.get("preprocess", {}))
    return sources_of(card, draft, fields, from_graph, frozenset(from_metadata))


def _of_said_size(checkpoint: Checkpoint, input_wh: Any) -> Checkpoint:
    """Where the file leaves the size open and nothing beside it says one, that of the card."""
    if (
        isinstance(input_wh, list)
        and len(input_wh) == 2
        and all(isinstance(n, int) and n > 0 for n in input_wh)
    ):
        checkpoint = at_size(checkpoint, (input_wh[0], input_wh[1]))
    image = checkpoint.inputs[0]
    if not all(isinstance(size, int) for size in image.shape[2:]):
        size = checkpoint.configs.get("preprocessor_config.json", {}).get("size")
        beside = f"preprocessor_config.json says {size}" if size else "nothing beside it says one"
        raise BuildError(
            f"{checkpoint.path}: the size of the input {image} is not fixed, and {beside}; "
            "say it with --input-size WIDTHxHEIGHT or as input_wh in the card"
        )
    return checkpoint


def _seen_in_graph(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """The preprocess fields that the network settles itself, and those that are guesses whoever says them."""
    own = own_normalisation(checkpoint.original, checkpoint.model)
    fields = dict(own.fields)
    if image_input(checkpoint.path, checkpoint.original, None).channels == 1:
        fields["color"] = "rgb"  # of which the grey is made
    guesses = {}
    if own.turning or own.unknown:
        first = ", ".join(own.turning + own.unknown)
        what = f"other: the network begins with {first}, which may be a part of it"
        unsaid = {"color", *(("scale", "mean", "std") if own.unknown else ())} - set(fields)
        guesses = {f"preprocess.{name}": what for name in unsaid}
    return ({"preprocess": fields} if fields else {}), guesses


def _unsettled(draft: Draft, guesses: Mapping[str, str]) -> Draft:
    """``draft`` without metadata's word on the fields of ``guesses``."""
    if not guesses:
        return draft
    kept = draft.from_metadata - set(guesses)
    if "preprocess" in kept:
        fields = {f"preprocess.{name}" for name in ("resize", "pad_value", "color", "scale", "mean", "std")}
        kept = (kept - {"preprocess"}) | (fields - set(guesses))
    return replace(draft, from_metadata=kept, guesses={**draft.guesses, **guesses})


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
        raise CardError(first_mistake(error, "card", inside=("head",), model=family.head)) from None


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


def _labels(checkpoint: Checkpoint, draft: Draft) -> tuple[list[str], Source, str]:
    """The file's own names; or COCO's 80 for 80 classes, as published weights have them; or numbers.

    The last is why the file's names are not used, where it has some.
    """
    names, why_not = labels_of(written_names(checkpoint.metadata, checkpoint.configs), draft.num_classes)
    if names:
        return names, Source.METADATA, ""
    if draft.num_classes == len(COCO_LABELS) and not why_not:
        return list(COCO_LABELS), Source.GUESS, ""
    if draft.num_classes is None:
        why_not = why_not or "the file does not say how many classes there are"
    count = UNTOLD_CLASSES if draft.num_classes is None else draft.num_classes
    return [f"class_{index}" for index in range(count)], Source.GUESS, why_not
