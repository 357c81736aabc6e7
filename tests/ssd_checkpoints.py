"""The real SSD checkpoints of ../shared as files that can be built, each with its card."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import onnx

from tests.shared_data import SHARED

SSD = SHARED / "models/ssd"
ULTRAFACE = SSD / "ultraface-RFB-320.onnx"
FACE_PRIORS = {
    "maps": [
        {"cells_wh": [40, 30], "min_sizes_px": [10, 16, 24]},
        {"cells_wh": [20, 15], "min_sizes_px": [32, 48]},
        {"cells_wh": [10, 8], "min_sizes_px": [64, 96]},
        {"cells_wh": [5, 4], "min_sizes_px": [128, 192, 256]},
    ],
    "clip_sizes": True,
}


def save_ssd_checkpoints(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Checkpoint and card of each detector by name; unpacks and cuts what is not a plain file."""
    mobilenet = folder / "ssd_mobilenet.onnx"
    mobilenet.write_bytes(lzma.decompress((SSD / "ssd_mobilenet_v1_coco.onnx.xz").read_bytes()))
    made: dict[str, tuple[Path, dict[str, Any]]] = {
        "ssd_mobilenet": (mobilenet, coco_card()),
        "ssd_mobilenet_raw": (_cut_raw_heads(mobilenet), coco_card()),
        "ultraface": (ULTRAFACE, face_card()),
        "ultraface_raw": (SSD / "ultraface-RFB-320_raw-loc.onnx", face_card(prior_grid=FACE_PRIORS)),
    }
    saved = {}
    for name, (checkpoint, card) in made.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(card))
        saved[name] = (checkpoint, path)
    return saved


def face_card(**head: Any) -> dict[str, Any]:
    """What UltraFace's authors say."""
    return {"labels": ["face"], "preprocess": {"mean": [127] * 3, "std": [128] * 3}, "head": head}


def coco_card() -> dict[str, Any]:
    """labels.txt has a line for each score column, "???" where COCO has no such category."""
    lines = (SSD / "ssd_mobilenet_v1_coco.labels.txt").read_text().splitlines()
    columns = [column for column, label in enumerate(lines) if label != "???"]
    return {
        "labels": [lines[column] for column in columns],
        "preprocess": {"mean": [128] * 3, "std": [128] * 3},
        "head": {"class_columns": columns},
    }


def _cut_raw_heads(decoded: Path) -> Path:
    """The heads before the decode, and the anchors as initialisers that no node reads."""
    raw = decoded.with_name("ssd_mobilenet_raw.onnx")
    onnx.utils.extract_model(str(decoded), str(raw), ["input"], ["loc", "scores"])
    model, whole = onnx.load(raw), onnx.load(decoded)
    model.graph.initializer.extend(
        tensor for tensor in whole.graph.initializer if tensor.name in ("anchors_yx", "anchors_hw")
    )
    onnx.save(model, raw)
    return raw
