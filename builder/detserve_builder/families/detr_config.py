"""What Hugging Face's config.json and preprocessor_config.json say of a DETR.

Its processors resize with antialiasing, as Pillow does: a picture that is made smaller reaches the network
smoother than by the bilinear resize that is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detserve_builder.checkpoint.names import names_in_metadata
from detserve_builder.errors import BuildError

_SOFTMAX = ("detr", "table-transformer", "yolos")
_SIGMOID = (
    *("conditional_detr", "dab-detr", "deformable_detr", "deta", "rt_detr", "rt_detr_v2", "d_fine"),
    *("deim", "deimv2", "dfine", "lw_detr", "rf_detr"),
)
_OPEN_VOCABULARY = ("grounding-dino", "mm-grounding-dino", "omdet-turbo", "owlvit", "owlv2")
_NO_CLASS = "n/a"  # the name of the numbers that COCO leaves out


@dataclass(frozen=True)
class Said:
    """Facts from the configuration files.

    ``scores`` is that of the card's head. ``class_columns`` and ``labels`` leave out columns of no class, of
    ``num_labels`` in all. ``preprocess`` are card fields.
    """

    scores: str | None = None
    num_labels: int | None = None
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


def said_in_configs(configs: Mapping[str, Mapping[str, Any]]) -> Said:
    """Raises :class:`BuildError` for a detector that looks for what a text says."""
    config, processor = configs.get("config.json", {}), configs.get("preprocessor_config.json", {})
    kind = str(config.get("model_type", ""))
    if kind in _OPEN_VOCABULARY:
        raise BuildError(
            f"config.json: model_type is {kind}, a detector that looks for what a text says; only detectors "
            "with a fixed list of classes are served"
        )
    names = names_in_metadata({}, configs)
    columns = tuple(index for index, name in enumerate(names) if name.casefold() != _NO_CLASS)
    preprocess, guesses = _preprocess(processor) if processor else ({}, {})
    return Said(
        scores="softmax" if kind in _SOFTMAX else "sigmoid" if kind in _SIGMOID else None,
        num_labels=len(names) or None,
        class_columns=columns or None,
        labels=tuple(names[index] for index in columns) or None,
        preprocess=preprocess,
        guesses=guesses,
    )


def _preprocess(processor: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Card fields, and what else a field may be that the processor's way of resizing does not settle."""
    fields: dict[str, Any] = {"color": "rgb"}
    if processor.get("do_rescale", True):
        fields["scale"] = processor.get("rescale_factor", 1 / 255)
    else:
        fields["scale"] = 1.0
    if processor.get("do_normalize") is False:
        fields |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    elif "image_mean" in processor and "image_std" in processor:
        fields |= {"mean": _of_channels(processor["image_mean"]), "std": _of_channels(processor["image_std"])}
    size = processor.get("size")
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return {**fields, "resize": "stretch"}, {}
    other = "letterbox_topleft; the processor keeps a picture's ratio, which a network of a fixed size cannot"
    return fields, {"preprocess.resize": other}


def _of_channels(value: Any) -> Any:
    return value if isinstance(value, list) else [value] * 3
