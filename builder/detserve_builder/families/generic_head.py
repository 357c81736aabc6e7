"""How a card describes a head: where boxes and scores are, and what they mean.

Boxes, scores and, where there is one, objectness are outputs or columns of outputs, of one tensor or of
one a stride, joined in the order of the card. A box stands for itself, or is counted from a prior of
centre ``p`` and size ``s`` in network pixels (Liu et al. 2016, arXiv:1512.02325, section 2.2, with
variances ``v``); with ``s = stride`` that says anchor-free heads too, of one or more boxes a cell::

    center_size         centre = p + v t s,  size = s exp(v t)    SSD; YuNet with s = stride, v = 1
    center_size_linear  centre = p + v t s,  size = v t s         BlazeFace with s = 1 px
    distances           x1 y1 = p - v t s,   x2 y2 = p + v t s    FCOS, SCRFD with s = stride
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from detserve_builder.families.ssd.priors import PriorGrid


class Coding(str, Enum):
    """The four numbers of a box, by themselves or against a prior."""

    XYXY = "xyxy"
    XYWH = "xywh"
    CXCYWH = "cxcywh"
    YXYX = "yxyx"
    CENTER_SIZE = "center_size"
    CENTER_SIZE_LINEAR = "center_size_linear"
    DISTANCES = "distances"


AGAINST_PRIORS = (Coding.CENTER_SIZE, Coding.CENTER_SIZE_LINEAR, Coding.DISTANCES)


class Units(str, Enum):
    """Network pixels, or shares of the network's width and height."""

    PIXELS = "pixels"
    NORMALISED = "normalised"


class Activation(str, Enum):
    """What turns the scores of the graph into 0..1; softmax runs over the score columns."""

    NONE = "none"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


class ScoreOf(str, Enum):
    """What a class score and the objectness make: their product, or its square root."""

    PRODUCT = "product"
    SQUARE_ROOT = "square_root_of_product"


_Column = Annotated[int, Field(ge=0)]
_Positive = Annotated[float, Field(gt=0)]
_Outputs = Annotated[
    list[str], Field(min_length=1), BeforeValidator(lambda said: [said] if isinstance(said, str) else said)
]


class Head(BaseModel):
    """Where boxes and scores are and what they mean.

    ``boxes``, ``scores`` and ``objectness`` name outputs, one or one a stride: [N,A,columns], [A,columns], or
    maps [N,boxes a cell * columns,h,w]. Columns are counted along the last axis, or along axis 1 where
    ``channels_first``; a range is [start, end) and None means all; the others are not looked at.
    ``objectness_column`` counts in the objectness' output, in the scores' where there is none; it is sigmoid
    unless the activation is none. ``background_column`` counts in the score columns. ``units`` are those of
    boxes that stand for themselves; the others need ``prior_grid``, and ``variances`` where these are not 1.
    """

    model_config = ConfigDict(extra="forbid")
    anchors: Annotated[int, Field(gt=0)]
    boxes: _Outputs
    scores: _Outputs
    objectness: _Outputs | None = None
    boxes_columns: tuple[_Column, _Column] | None = None
    scores_columns: tuple[_Column, _Column] | None = None
    channels_first: bool = False
    box_coding: Coding
    units: Units | None = None
    prior_grid: PriorGrid | None = None
    variances: tuple[_Positive, _Positive, _Positive, _Positive] = (1.0, 1.0, 1.0, 1.0)
    activation: Activation
    objectness_column: _Column | None = None
    background_column: _Column | None = None
    score_of: ScoreOf = ScoreOf.PRODUCT

    @model_validator(mode="after")
    def _what_the_coding_needs(self) -> Head:
        coding, fields = self.box_coding, ("units", "prior_grid")
        needed, other = reversed(fields) if coding in AGAINST_PRIORS else fields
        if getattr(self, needed) is None:
            raise ValueError(f"box_coding {coding.value} needs {needed}")
        if getattr(self, other) is not None:
            raise ValueError(f"box_coding {coding.value} takes no {other}; leave it out or say the coding")
        is_alone = self.objectness is None and self.objectness_column is None
        if self.score_of is ScoreOf.SQUARE_ROOT and is_alone:
            raise ValueError(f"score_of {self.score_of.value} needs objectness or objectness_column")
        return self
