"""What a detector family must say about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from detserve_builder.checkpoint import Checkpoint
from detserve_client.card import Card

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Draft:
    """What a family reads off a graph that fits it: card fields, and a guess at the number of classes."""

    card_fields: dict[str, Any]
    num_classes: int | None


@dataclass(frozen=True)
class Family:
    """One kind of detector head.

    ``head`` is the schema of the card's ``head``. ``num_anchors`` is A for a card whose head is valid.
    ``recognise`` returns None for a graph that is not of this
    family. ``decode`` adds nodes behind the graph's outputs and returns two tensors for A anchors and C
    classes: boxes float32 [N,A,4], x1,y1,x2,y2 in network pixels, and scores float32 [N,A,C] in 0..1; it
    raises CardError where the card's head or labels contradict the graph.
    """

    name: str
    expects: str
    head: type[BaseModel]
    num_anchors: Callable[[Card], int]
    recognise: Callable[[Checkpoint], Draft | None]
    decode: Callable[[gs.Graph, Card], tuple[gs.Tensor, gs.Tensor]]
