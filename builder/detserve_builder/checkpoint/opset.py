"""ONNX opset and IR versions: which are read, and how an old opset is raised without changing a number."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.errors import BuildError, first_line
from detserve_builder.graph.branches import all_graphs

if TYPE_CHECKING:
    import onnx

OPSET = 17  # LayerNormalization and per-axis Q/DQ exist from here on; every target reads it
READ_OPSET = 24  # the newest that TensorRT's parser reads; ONNX Runtime 1.32 has no Q/DQ kernels at 28
OLDEST_OPSET = 7  # what ONNX Runtime runs, so that the raised network can be compared with the file
NEWEST_OPSET = 28  # of onnx 1.23 and ONNX Runtime 1.32
NEWEST_IR = 14
_ASYMMETRIC_UP_TO = 10  # Upsample-7, Upsample-9 and Resize-10 know one way to place pixels


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators, 0 where the file names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def at_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` at an opset from 17 to 24 where it can be, with the lowest IR version that its opset needs.

    onnx's converter makes half_pixel of the linear Upsample and Resize up to opset 10, which place pixels
    asymmetrically (onnx/onnx, docs/Changelog.md, Resize-11); that is put right. Raises :class:`BuildError`
    where the converter cannot raise it.
    """
    from onnx import version_converter

    opset = opset_of(model)
    if opset < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise BuildError(
                f"{path}: its opset {opset} cannot be raised to {OPSET} ({first_line(error)}); export it at "
                f"opset {OPSET} or later"
            ) from None
    if opset > READ_OPSET:
        with suppress(Exception):  # of whatever type the converter has; what is new in it stays at its opset
            model = version_converter.convert_version(model, READ_OPSET)
    if opset <= _ASYMMETRIC_UP_TO:
        for graph in all_graphs(model.graph):
            for node in graph.node:
                if node.op_type == "Resize":
                    _place_asymmetrically(node)
    model.ir_version = lowest_ir(model)
    return model


def lowest_ir(model: onnx.ModelProto) -> int:
    """The lowest IR version that the opsets of ``model`` need, so that old runtimes read it too."""
    from onnx import helper

    return int(helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))


def _place_asymmetrically(resize: onnx.NodeProto) -> None:
    from onnx import helper

    modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    kept = [attribute for attribute in resize.attribute if attribute.name not in modes]
    del resize.attribute[:]
    resize.attribute.extend(kept + [helper.make_attribute(name, mode) for name, mode in modes.items()])
