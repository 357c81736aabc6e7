"""Where each field of a card comes from: a card holds facts and guesses, and says which is which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from detserve_builder.families import Draft
from detserve_core.card import Card, ColorOrder, PreprocessSpec, Resize

# What the preprocessing of a network may be; the file itself seldom says.
_PREPROCESSING: dict[str, tuple[str, ...]] = {
    "resize": tuple(Resize),
    "pad_value": ("114", "0", "128"),
    "color": tuple(ColorOrder),
}
_VALUES = ("0..1", "0..255", "-1..1", "ImageNet's mean and std")
_OURS = frozenset(
    {"preprocess.decode", "thresholds", "candidates", "max_picture_pixels"}
)  # no word of the file's


class Source(str, Enum):
    """Who says it."""

    GRAPH = "graph"
    METADATA = "metadata"  # the file's own, or the configuration files beside it
    SAID = "said"  # by the user, or in a card.json
    MEASURED = "measured"  # on pictures, beyond their noise
    GUESS = "guess"


@dataclass(frozen=True)
class InferredCard:
    """A card, the source of each of its dotted fields, and for each guess what else it could be.

    ``leads`` says what pictures said of a field, in words.
    """

    card: Card
    sources: Mapping[str, Source]
    guesses: Mapping[str, str]
    leads: Mapping[str, str] = field(default_factory=dict)


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
        if name == "preprocess.pad_value" and card.preprocess.resize is Resize.STRETCH:
            continue  # nothing is padded
        if _is_among(name, said_fields):
            sources[name] = Source.SAID
        elif _is_among(name, _OURS) and not _is_among(name, set(draft.guesses)):
            continue
        elif _is_among(name, from_graph):
            sources[name] = Source.GRAPH
        elif _is_among(name, draft.from_metadata | from_metadata):
            sources[name] = Source.METADATA
        elif other := _guess(name, card, draft.guesses):
            sources[name], guesses[name] = Source.GUESS, other
        else:
            sources[name] = Source.GRAPH
    return InferredCard(card, sources, guesses)


def _guess(name: str, card: Card, guesses: Mapping[str, str]) -> str | None:
    for guess, other in guesses.items():
        if _is_among(name, {guess}):
            return other
    group, _, part = name.partition(".")
    if group != "preprocess":
        return None
    if part in _PREPROCESSING:
        now = getattr(card.preprocess, part)
        return one_of([choice for choice in _PREPROCESSING[part] if choice not in (now, str(now))])
    return one_of([values for values in _VALUES if values != value_range(card.preprocess)])


def value_range(spec: PreprocessSpec) -> str:
    """What pixels 0..255 become, roughly: one of the usual ranges, or the two ends."""
    low, high = -spec.mean[0] / spec.std[0], (255 * spec.scale - spec.mean[0]) / spec.std[0]
    for name, ends in (("0..1", (0, 1)), ("0..255", (0, 255)), ("-1..1", (-1, 1))):
        if abs(low - ends[0]) + abs(high - ends[1]) <= 0.03 * (ends[1] - ends[0]):
            return name
    if min(spec.std) != max(spec.std) and -2.3 < low < -1.7 and 2.1 < high < 2.8:
        return "ImageNet's mean and std"
    return f"{low:.3g}..{high:.3g}"


def one_of(choices: Sequence[str]) -> str:
    """``a, b or c``."""
    *first, last = (str(getattr(choice, "value", choice)) for choice in choices)
    return f"{', '.join(first)} or {last}" if first else last


def _is_among(name: str, fields: set[str] | frozenset[str]) -> bool:
    """Whether ``name`` or a field that it is part of is among ``fields``, or has a part there."""
    return any(
        name == other or name.startswith(f"{other}.") or other.startswith(f"{name}.") for other in fields
    )


def _leaves(fields: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Dotted names of the fields of ``preprocess``, ``head`` and ``thresholds``, and of the others."""
    for name, value in fields.items():
        if isinstance(value, Mapping) and not inside:
            yield from _leaves(value, f"{name}.")
        else:
            yield f"{inside}{name}"
