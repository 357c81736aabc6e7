"""What a detector family must say about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from detserve_builder.checkpoint import Checkpoint
from detserve_core.card import Card

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Draft:
    """What a family reads off a graph that fits it: card fields, and the number of classes.

    ``guesses``: what is not a fact, by dotted field (``head.scores``; a prefix counts for all below it), with
    what else it could be. ``preprocess`` is a guess in any case, unless it is in ``from_metadata``: the
    dotted fields that the file's metadata or its configuration files say. Everything else counts as read off
    the graph.
    """

    card_fields: dict[str, Any]
    num_classes: int | None
    guesses: Mapping[str, str] = field(default_factory=dict)
    from_metadata: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidates:
    """What a decoder makes of the head, for A anchors and C classes, before best class and top-K.

    ``boxes`` float32 [N,A,4], x1,y1,x2,y2 in network pixels. Where ``classes`` is None, ``scores`` is float32
    [N,A,C]; a network that gives the class itself has ``scores`` float32 [N,A] and ``classes`` int64 [N,A].
    """

    boxes: gs.Tensor
    scores: gs.Tensor
    classes: gs.Tensor | None = None


@dataclass(frozen=True)
class Family:
    """One kind of detector head.

    ``head`` is the schema of the card's ``head``. ``recognise`` returns None for a graph that is not of this
    family; ``num_anchors`` is A for a card whose head is valid. ``decode`` adds nodes behind the graph's
    outputs and raises CardError where the card's head or labels contradict the graph. A family
    ``only_when_named`` is considered only where the card names it. ``about`` says what it is where the
    module's docstring does not.
    """

    name: str
    expects: str
    head: type[BaseModel]
    num_anchors: Callable[[Card], int]
    recognise: Callable[[Checkpoint], Draft | None]
    decode: Callable[[gs.Graph, Card], Candidates]
    only_when_named: bool = False
    about: str | None = None
