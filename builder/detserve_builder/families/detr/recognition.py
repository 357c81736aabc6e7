"""Which graphs are DETR's kin, and of what kind: by names of outputs, operators and configuration files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.coco_labels import COCO_CATEGORY_IDS
from detserve_builder.errors import BuildError
from detserve_builder.families.detr.config import IMAGENET, Said, said_of
from detserve_builder.families.family import Draft
from detserve_builder.families.reading import (
    constant_added_last,
    image_wh,
    last_op,
    last_top_k,
    num_classes_of_top_k,
    ops,
    passed_on_way_back,
)
from detserve_builder.families.ssd.trace import trace

if TYPE_CHECKING:
    import onnx

DECODED = ("labels", "boxes", "scores")
_SIZES = "orig_target_sizes"
_RANKED = 300  # rows of the postprocess of RT-DETR, D-FINE, DINO and RF-DETR
_SOFTMAX_OR_SIGMOID = "softmax with the last column for no object, or sigmoid"


def recognise(checkpoint: Checkpoint) -> Draft | None:
    """The draft of a DETR; raises :class:`BuildError` for kin that cannot be served."""
    said = said_of(checkpoint)
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    if _SIZES in checkpoint.fed:
        return _decoded(checkpoint, wh, said)
    pair = logits_and_boxes(checkpoint.outputs)
    if pair is None:
        return None
    logits, boxes = pair
    if not (said.scores or "logits" in logits.name or _is_detr_like(checkpoint, boxes)):
        return None
    if trace(checkpoint.model, boxes.name).layers == {"Conv"}:
        return None  # an SSD's; a transformer's boxes come from matrix products
    if last_op(checkpoint, boxes) == "Sub":
        return None  # corners, which no DETR gives: made by somebody's own postprocess
    _refuse_more_than_boxes(checkpoint)
    head: dict[str, Any] = {}
    if isinstance(boxes.shape[1], int):
        head["queries"] = boxes.shape[1]
    guesses: dict[str, str] = {}
    rf_detr = _is_rf_detr(logits, boxes)
    head["scores"] = said.scores or _scores(checkpoint, logits, guesses, rf_detr=rf_detr)
    columns = logits.shape[2]
    num_classes = columns if isinstance(columns, int) else None
    if num_classes is not None:
        num_classes -= head["scores"] == "softmax"
        num_classes = _choose_columns(head, num_classes, said, guesses, surplus=rf_detr)
    return _draft(wh, head, num_classes, said, guesses, imagenet=not _has_hybrid_encoder(checkpoint.model))


def logits_and_boxes(outputs: tuple[TensorInfo, ...]) -> tuple[TensorInfo, TensorInfo] | None:
    """The pair [N,Q,C'] and [N,Q,4]; exports may give hidden states or masks beside them."""
    rows = [output for output in outputs if len(output.shape) == 3]
    fours = [output for output in rows if output.shape[2] == 4]
    if not fours:
        return None
    # With four columns of logits the names decide, or the order, logits first.
    boxes = next((output for output in fours if "box" in output.name or "dets" in output.name), fours[-1])
    beside = [output for output in rows if output is not boxes and output.shape[1] == boxes.shape[1]]
    named = [output for output in beside if "logits" in output.name]
    logits = next(iter((*named, *beside)), None)
    return (logits, boxes) if logits is not None else None


def _decoded(checkpoint: Checkpoint, wh: tuple[int, int], said: Said) -> Draft | None:
    """RT-DETR's, D-FINE's and DEIM's own export."""
    outputs = {output.name: output.shape for output in checkpoint.outputs}
    if not all(name in outputs for name in DECODED):
        return None
    shape = outputs["boxes"]
    fixed = shape[1] if len(shape) == 3 else None
    queries = fixed if isinstance(fixed, int) else last_top_k(checkpoint)
    head: dict[str, Any] = {"scores": "decoded"}
    if queries is not None:
        head["queries"] = queries
    # Pixels are 0..1, but DEIMv2's larger ones begin with DINOv3's transformer, with ImageNet's statistics.
    imagenet = _has_patch_embedding(checkpoint.model)
    return _draft(wh, head, num_classes_of_top_k(checkpoint), said, {}, imagenet=imagenet)


def _is_detr_like(checkpoint: Checkpoint, boxes: TensorInfo) -> bool:
    return "GridSample" in ops(checkpoint) or last_op(checkpoint, boxes) == "Sigmoid"


def _is_rf_detr(logits: TensorInfo, boxes: TensorInfo) -> bool:
    """RF-DETR and LW-DETR, by the names that their exporters give; they have a column more than classes."""
    return (boxes.name, logits.name) == ("dets", "labels")


def _refuse_more_than_boxes(checkpoint: Checkpoint) -> None:
    """RF-DETR's key points have a part in the scores, and its angles make other boxes of the same columns."""
    beside = {"keypoints", "angles"} & {output.name for output in checkpoint.outputs}
    if beside:
        raise BuildError(
            f"{checkpoint.path}: RF-DETR's boxes or scores are not whole without its {beside.pop()}, "
            "and they are not served; export a detection or segmentation variant"
        )


def _scores(checkpoint: Checkpoint, logits: TensorInfo, guesses: dict[str, str], *, rf_detr: bool) -> str:
    """What is done in the graph is a fact; what its operators and biases suggest is a guess."""
    activation = last_op(checkpoint, logits)
    if activation == "Sigmoid":
        return "sigmoid"
    if activation == "Softmax":
        cut = {"Slice", "Gather", "Split"} & passed_on_way_back(checkpoint, logits)
        return "decoded" if cut else "softmax"
    guesses["head.scores"] = _SOFTMAX_OR_SIGMOID
    if rf_detr or {"GridSample", "TopK"} & ops(checkpoint):
        return "sigmoid"  # deformable attention, query selection: all of these are
    if logits.shape[2] == 92:
        return "softmax"  # DETR's own: COCO's 91 category ids and "no object"
    bias = constant_added_last(checkpoint, logits)
    # A focal loss starts its sigmoids at .01, a bias of -4.6, and they stay far below 0.
    return "sigmoid" if bias is not None and bias.mean() < -2 else "softmax"


def _choose_columns(
    head: dict[str, Any], num_classes: int, said: Said, guesses: dict[str, str], *, surplus: bool
) -> int:
    """Puts ``class_columns`` into ``head`` where not every column is a class; returns how many are."""
    if said.class_columns is not None and said.num_names == num_classes:
        if len(said.class_columns) < num_classes:
            head["class_columns"] = list(said.class_columns)
        return len(said.class_columns)
    if said.num_names == num_classes - 1:
        head["class_columns"] = list(range(num_classes - 1))
        return num_classes - 1
    if num_classes == 91:
        head["class_columns"] = list(COCO_CATEGORY_IDS)
        guesses["head.class_columns"] = f"COCO's category ids, or all columns{' but the last' * surplus}"
        return len(COCO_CATEGORY_IDS)
    if surplus and num_classes > 1:
        head["class_columns"] = list(range(num_classes - 1))
        guesses["head.class_columns"] = "all but the last, which RF-DETR trains for no class, or all"
        return num_classes - 1
    return num_classes


def _has_hybrid_encoder(model: onnx.ModelProto) -> bool:
    """RT-DETR's pyramid: feature maps are enlarged and joined to larger ones. DETRs before it have none."""
    enlarged = {node.output[0] for node in model.graph.node if node.op_type in ("Resize", "Upsample")}
    return any(node.op_type == "Concat" and enlarged & set(node.input) for node in model.graph.node)


def _has_patch_embedding(model: onnx.ModelProto) -> bool:
    """The picture's first convolution cuts it into patches, as a vision transformer's."""
    first = next((node for node in model.graph.node if node.op_type == "Conv"), None)
    attributes = {a.name: list(a.ints) for a in first.attribute} if first is not None else {}
    sides = attributes.get("kernel_shape", [])
    return len(sides) == 2 and sides[0] >= 8 and sides == attributes.get("strides")


def _draft(
    wh: tuple[int, int],
    head: dict[str, Any],
    num_classes: int | None,
    said: Said,
    guesses: dict[str, str],
    *,
    imagenet: bool,
) -> Draft:
    fields: dict[str, Any] = {
        "input_wh": list(wh),
        "preprocess": {
            **{"resize": "stretch", "color": "rgb", "scale": 1 / 255},
            **(IMAGENET if imagenet else {}),
            **said.preprocess,
        },
        "head": head,
        "thresholds": {"iou": 1.0},
        "candidates": _RANKED,
    }
    if said.labels is not None and len(said.labels) == num_classes:
        fields["labels"] = list(said.labels)
    from_metadata = {f"preprocess.{name}" for name in said.preprocess} | said.from_metadata(num_classes)
    return Draft(fields, num_classes, {**guesses, **said.guesses}, frozenset(from_metadata))
