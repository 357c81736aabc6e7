"""Where each field of a card comes from: a card holds facts and guesses, and says which is which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from detserve_builder.families import Draft
from detserve_client.card import Card

# What else the preprocessing of a network may be; the file itself seldom says.
_ELSE = {
    "preprocess.resize": "letterbox_center, letterbox_topleft or stretch",
    "preprocess.pad_value": "114, 0 or 128",
    "preprocess.color": "rgb or bgr",
    "preprocess.scale": "1/255 with values in 0..1, or 1 with values in 0..255",
    "preprocess.mean": "none, ImageNet's, or 127.5 for -1..1",
    "preprocess.std": "none, ImageNet's, or 127.5 for -1..1",
}


class Source(str, Enum):
    """Who says it."""

    GRAPH = "graph"
    METADATA = "metadata"  # the file's own, or the configuration files beside it
    SAID = "said"  # by the user, or in a card.json
    GUESS = "guess"


@dataclass(frozen=True)
class InferredCard:
    """A card, the source of each of its dotted fields, and for each guess what else it could be."""

    card: Card
    sources: Mapping[str, Source]
    guesses: Mapping[str, str]


def sources_of(
    card: Card,
    draft: Draft,
    said: Mapping[str, Any],
    from_graph: frozenset[str],
    from_metadata: frozenset[str],
) -> InferredCard:
    """``card`` with the source of every field that matters to what it detects.

    ``said`` is the user's part; ``from_graph`` and ``from_metadata`` are the fields that were found beside
    the draft.
    """
    sources, guesses = {}, {}
    said_fields = set(_leaves(said))
    for name in _leaves(card.model_dump(mode="json", exclude={"schema_version", "name", "origin"})):
        if _is_among(name, said_fields):
            sources[name] = Source.SAID
        elif _is_among(name, from_graph):
            sources[name] = Source.GRAPH
        elif _is_among(name, draft.from_metadata | from_metadata):
            sources[name] = Source.METADATA
        elif other := _guess(name, draft.guesses):
            sources[name], guesses[name] = Source.GUESS, other
        else:
            sources[name] = Source.GRAPH
    return InferredCard(card, sources, guesses)


def _guess(name: str, guesses: Mapping[str, str]) -> str | None:
    for field, other in guesses.items():
        if _is_among(name, {field}):
            return other
    return _ELSE.get(name)


def _is_among(name: str, fields: set[str] | frozenset[str]) -> bool:
    """Whether ``name`` or a field that it is part of is among ``fields``, or has a part there."""
    return any(
        name == field or name.startswith(f"{field}.") or field.startswith(f"{name}.") for field in fields
    )


def _leaves(fields: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Dotted names of the fields of ``preprocess``, ``head`` and ``thresholds``, and of the others."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and not inside:
            yield from _leaves(value, f"{name}.")
        else:
            yield f"{inside}{name}"
