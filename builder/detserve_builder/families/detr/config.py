"""What is written beside a DETR: Hugging Face's configuration files, LibreYOLO's metadata.

Hugging Face's processors resize with antialiasing, as Pillow does: a picture that is made smaller reaches the
network smoother than by the bilinear resize that is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.checkpoint.names import labels_of, written_names
from detserve_builder.errors import BuildError

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_NO_STATISTICS = {"mean": [0.0] * 3, "std": [1.0] * 3}
_SOFTMAX = ("detr", "table-transformer", "yolos")
_SIGMOID = (
    *("conditional_detr", "dab-detr", "deformable_detr", "deta", "rt_detr", "rt_detr_v2", "d_fine"),
    *("lw_detr", "rf_detr", "deim", "deimv2"),
)
_OPEN_VOCABULARY = ("grounding-dino", "mm-grounding-dino", "omdet-turbo", "owlvit", "owlv2")
# LibreYOLO's model_family, and whether it takes ImageNet's statistics; all but "detr" score with sigmoid.
_LIBREYOLO = {
    **dict.fromkeys(("detr", "deformable_detr", "dinodetr", "lwdetr", "rfdetr", "tinyformer", "ec"), True),
    **dict.fromkeys(("dfine", "deim", "rtdetr", "rtdetrv2", "rtdetrv4"), False),
}
_NO_CLASS = "n/a"  # the name of the numbers that COCO leaves out


@dataclass(frozen=True)
class Said:
    """Facts from metadata and configuration files.

    ``scores`` is that of the card's head. Of ``num_names`` names ``labels`` are those of a class, in the
    columns ``class_columns``. ``preprocess`` are card fields; ``guesses`` says what else one may be.
    """

    scores: str | None = None
    num_names: int | None = None
    class_columns: tuple[int, ...] | None = None
    labels: tuple[str, ...] | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    guesses: Mapping[str, str] = field(default_factory=dict)

    def from_metadata(self, num_classes: int | None) -> set[str]:
        """The card's fields, beside the preprocess, that are settled for a network of ``num_classes``."""
        fields = {"head.scores"} if self.scores else set()
        if self.labels is not None and len(self.labels) == num_classes:
            fields |= {"labels", "head.class_columns"}
        return fields


def said_of(checkpoint: Checkpoint) -> Said:
    """Raises :class:`BuildError` for a detector that looks for what a text says."""
    config = checkpoint.configs.get("config.json", {})
    processor = checkpoint.configs.get("preprocessor_config.json", {})
    kind, family = str(config.get("model_type", "")), checkpoint.metadata.get("model_family", "")
    if kind in _OPEN_VOCABULARY:
        raise BuildError(
            f"{checkpoint.path}: config.json says {kind}, a detector that looks for what a text says; only "
            "detectors with a fixed list of classes are served"
        )
    names, _ = labels_of(written_names(checkpoint.metadata, checkpoint.configs), None)
    columns = tuple(index for index, name in enumerate(names) if name.casefold() != _NO_CLASS)
    preprocess, guesses = _preprocess(processor) if processor else (_of_libreyolo(family), {})
    return Said(
        scores=_scores(kind, family),
        num_names=len(names) or None,
        class_columns=columns or None,
        labels=tuple(names[index] for index in columns) or None,
        preprocess=preprocess,
        guesses=guesses,
    )


def _scores(kind: str, family: str) -> str | None:
    if kind in _SOFTMAX or family == "detr":
        return "softmax"
    return "sigmoid" if kind in _SIGMOID or family in (*_LIBREYOLO, "deimv2") else None


def _of_libreyolo(family: str) -> dict[str, Any]:
    """Card fields of the preprocess of one of LibreYOLO's families."""
    if family not in _LIBREYOLO:
        return {}
    statistics = IMAGENET if _LIBREYOLO[family] else _NO_STATISTICS
    return {"resize": "stretch", "color": "rgb", "scale": 1 / 255, **statistics}


def _preprocess(processor: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Card fields, and what else a field may be that the processor's way of resizing does not settle."""
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    fields: dict[str, Any] = {"color": "rgb", "scale": scale}
    if processor.get("do_normalize") is False:
        fields |= _NO_STATISTICS
    elif "image_mean" in processor and "image_std" in processor:
        fields |= {"mean": _of_channels(processor["image_mean"]), "std": _of_channels(processor["image_std"])}
    size = processor.get("size")
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return {**fields, "resize": "stretch"}, {}
    other = "letterbox_topleft; the processor keeps a picture's ratio, which a network of a fixed size cannot"
    return fields, {"preprocess.resize": other}


def _of_channels(value: Any) -> Any:
    return value if isinstance(value, list) else [value] * 3
