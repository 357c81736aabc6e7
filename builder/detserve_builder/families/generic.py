"""A detector that the card alone describes, for heads that no other family reads.

Used only where the card says ``"family": "generic"``; what it can say is in generic_head.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.generic_head import AGAINST_PRIORS, Activation, Coding, Head, ScoreOf, Units
from detserve_builder.families.reading import expect_classes, image_wh
from detserve_builder.graph.layers import corners, float32, int64, layer, slice_last
from detserve_builder.preparation.batch import NotBatchable
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def num_anchors(card: Card) -> int:
    """A of a card whose head is a :class:`Head`."""
    return Head.model_validate(card.head).anchors


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    return Draft(card_fields={"input_wh": list(wh)}, num_classes=None)


def decode(graph: gs.Graph, card: Card) -> Candidates:
    """What a :class:`Head` says; raises CardError where it contradicts the graph."""
    head = Head.model_validate(card.head)
    box_rows, num_box_columns = _rows(graph, card, head, "boxes", head.boxes)
    start, end = _range("boxes_columns", head.boxes_columns, num_box_columns)
    if end - start != 4:
        raise CardError(f"card: head.boxes_columns: {start} to {end} are {end - start} columns, a box has 4")
    boxes = _columns(graph, box_rows, start, end, num_box_columns)
    decoded = _against_priors if head.box_coding in AGAINST_PRIORS else _by_itself
    return Candidates(decoded(graph, card, head, boxes), _scores(graph, card, head))


def _scores(graph: gs.Graph, card: Card, head: Head) -> gs.Tensor:
    rows, num_columns = _rows(graph, card, head, "scores", head.scores)
    start, end = _range("scores_columns", head.scores_columns, num_columns)
    scores = _activate(graph, head.activation, _columns(graph, rows, start, end, num_columns))
    kept = [column for column in range(end - start) if column != head.background_column]
    expect_classes(card, _output(graph, "scores", head.scores[0]), len(kept))
    if len(kept) != end - start:
        scores = layer(graph, "Gather", scores, int64(*kept), axis=2)
    if head.objectness is None and head.objectness_column is None:
        return scores
    if head.objectness is not None:
        rows, num_columns = _rows(graph, card, head, "objectness", head.objectness)
    column = head.objectness_column or 0
    _range("objectness_column", (column, column + 1), num_columns)
    objectness = _columns(graph, rows, column, column + 1, num_columns)
    if head.activation is not Activation.NONE:
        objectness = layer(graph, "Sigmoid", objectness)
    product = layer(graph, "Mul", scores, objectness)
    return layer(graph, "Sqrt", product) if head.score_of is ScoreOf.SQUARE_ROOT else product


def _output(graph: gs.Graph, field: str, name: str) -> gs.Tensor:
    for output in graph.outputs:
        if output.name == name:
            return output
    found = ", ".join(output.name for output in graph.outputs)
    raise CardError(f"card: head.{field}: got {name!r}, but the graph's outputs are {found}")


def _rows(graph: gs.Graph, card: Card, head: Head, field: str, names: list[str]) -> tuple[gs.Tensor, int]:
    """The named outputs joined as [N,A,columns], and the number of their columns."""
    rows = [head.anchors] if len(names) == 1 else _rows_by_level(card, head)
    parts = [
        _part(graph, head, field, name, level, rows[level] if level < len(rows) else None)
        for level, name in enumerate(names)
    ]
    anchors, widths = sum(rows for _, rows, _ in parts), {columns for _, _, columns in parts}
    if len(widths) != 1:
        found = " and ".join(map(str, sorted(widths)))
        raise CardError(f"card: head.{field}: {', '.join(names)} have {found} columns, expected as many each")
    if anchors != head.anchors:
        raise CardError(
            f"card: head.anchors: {head.anchors} gives {head.anchors} anchors, but the graph's output "
            f"{' and '.join(names)} has {anchors}"
        )
    tensors = [tensor for tensor, _, _ in parts]
    return tensors[0] if len(tensors) == 1 else layer(graph, "Concat", *tensors, axis=1), widths.pop()


def _rows_by_level(card: Card, head: Head) -> list[int]:
    maps = head.prior_grid.maps if head.prior_grid is not None else []
    return [prior_map.num_priors(card.input_wh) for prior_map in maps]


def _part(
    graph: gs.Graph, head: Head, field: str, name: str, level: int, rows: int | None
) -> tuple[gs.Tensor, int, int]:
    """One output as [N,rows,columns], with its rows and columns; ``rows`` is how many the card says."""
    output = _output(graph, field, name)
    shape = list(output.shape)
    if len(shape) == 2:
        output, shape = _with_batch(graph, output, rows)
    if len(shape) not in (3, 4) or not all(isinstance(size, int) for size in shape[1:]):
        raise CardError(
            f"card: head.{field}: {name} is {shape}, expected [N,A,columns] or [N,channels,h,w] of fixed size"
        )
    if len(shape) == 4:
        return _map_rows(graph, head, field, output, level)
    if head.channels_first:
        return layer(graph, "Transpose", output, perm=[0, 2, 1]), shape[2], shape[1]
    return output, shape[1], shape[2]


def _with_batch(graph: gs.Graph, output: gs.Tensor, said: int | None) -> tuple[gs.Tensor, list[int]]:
    """An output [rows of all pictures,columns] as [N,rows,columns], picture by picture."""
    rows, columns = output.shape
    if not isinstance(rows, int):
        if said is None:
            raise NotBatchable(f"the output {output.name} has no batch dimension")
        rows, output.shape = said, [f"{output.name}_rows", columns]
    return layer(graph, "Reshape", output, int64(-1, rows, columns)), [1, rows, columns]


def _map_rows(
    graph: gs.Graph, head: Head, field: str, output: gs.Tensor, level: int
) -> tuple[gs.Tensor, int, int]:
    """A map [N,boxes a cell * columns,h,w] as rows: cell by cell, in it box by box."""
    channels, height, width = output.shape[1:]
    maps = head.prior_grid.maps if head.prior_grid is not None else []
    per_cell = len(maps[level].cell_sizes_wh_px()) if level < len(maps) else 1
    if channels % per_cell:
        raise CardError(
            f"card: head.{field}: {output.name} has {channels} channels for {per_cell} priors a cell"
        )
    split = layer(graph, "Reshape", output, int64(0, per_cell, channels // per_cell, height * width))
    turned = layer(graph, "Transpose", split, perm=[0, 3, 1, 2])
    rows = per_cell * height * width
    return layer(graph, "Reshape", turned, int64(0, rows, channels // per_cell)), rows, channels // per_cell


def _range(field: str, said: tuple[int, int] | None, columns: int) -> tuple[int, int]:
    start, end = said or (0, columns)
    if not start < end <= columns:
        raise CardError(f"card: head.{field}: got {start} to {end}, but the output has {columns} columns")
    return start, end


def _columns(graph: gs.Graph, rows: gs.Tensor, start: int, end: int, columns: int) -> gs.Tensor:
    return rows if (start, end) == (0, columns) else slice_last(graph, rows, start, end)


def _activate(graph: gs.Graph, activation: Activation, scores: gs.Tensor) -> gs.Tensor:
    if activation is Activation.SOFTMAX:
        return layer(graph, "Softmax", scores, axis=2)
    return layer(graph, "Sigmoid", scores) if activation is Activation.SIGMOID else scores


def _by_itself(graph: gs.Graph, card: Card, head: Head, boxes: gs.Tensor) -> gs.Tensor:
    """A box that stands for itself, to x1,y1,x2,y2 in network pixels."""
    if head.box_coding is Coding.YXYX:
        boxes = layer(graph, "Gather", boxes, int64(1, 0, 3, 2), axis=2)
    if head.units is Units.NORMALISED:
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    first, second = slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4)
    if head.box_coding is Coding.CXCYWH:
        return corners(graph, first, second)
    if head.box_coding is Coding.XYWH:
        return layer(graph, "Concat", first, layer(graph, "Add", first, second), axis=2)
    return boxes


def _against_priors(graph: gs.Graph, card: Card, head: Head, boxes: gs.Tensor) -> gs.Tensor:
    """A box that is counted from its prior, to x1,y1,x2,y2 in network pixels."""
    assert head.prior_grid is not None  # noqa: S101 - the head's validator saw to it
    priors = head.prior_grid.boxes(card.input_wh)
    if len(priors) != head.anchors:
        raise CardError(
            f"card: head.prior_grid: describes {len(priors)} priors, but the graph has {head.anchors} anchors"
        )
    side_wh_px = float32(card.input_wh)
    centers_px, sizes_px = priors[:, :2] * side_wh_px, priors[:, 2:] * side_wh_px
    scaled = boxes if set(head.variances) == {1.0} else layer(graph, "Mul", boxes, float32(head.variances))
    first, second = slice_last(graph, scaled, 0, 2), slice_last(graph, scaled, 2, 4)
    if head.box_coding is Coding.CENTER_SIZE:
        second = layer(graph, "Exp", second)
    first, second = layer(graph, "Mul", first, sizes_px), layer(graph, "Mul", second, sizes_px)
    if head.box_coding is Coding.DISTANCES:
        low, high = layer(graph, "Sub", centers_px, first), layer(graph, "Add", centers_px, second)
        return layer(graph, "Concat", low, high, axis=2)
    return corners(graph, layer(graph, "Add", first, centers_px), second)


FAMILY = Family(
    name="generic",
    expects="boxes and scores in the outputs that the card's head names",
    head=Head,
    num_anchors=num_anchors,
    recognise=_recognise,
    decode=decode,
    only_when_named=True,
)
