"""Write `checkpoint.onnx` (the whole graph, one picture at a time) and `card.json`, checked against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torchvision.models.detection.faster_rcnn import FasterRCNN

from zoo.codes_rcnn.network import DETECTIONS, INPUT_PX
from zoo.publishing import OPSET, fold, publish, random_pictures
from zoo.scenes.symbols import LABELS

_MOST_DIFFERENCE = 1e-3


def _write(network: FasterRCNN, path: Path) -> None:
    picture = random_pictures(1, INPUT_PX)[0]
    names = ["boxes", "labels", "scores"]
    torch.onnx.export(
        network,
        ([picture],),
        str(path),
        opset_version=OPSET,
        input_names=["image"],
        output_names=names,
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network([picture])[0]
    for name, ours in zip(names, session.run(names, {"image": picture.numpy()}), strict=True):
        theirs = expected[name].numpy()
        if ours.shape != theirs.shape or np.abs(ours - theirs).max(initial=0) > _MOST_DIFFERENCE * INPUT_PX:
            raise RuntimeError(f"the exported network differs from torch in its {name}")


def export(network: FasterRCNN, folder: Path) -> None:
    """Write both files into `folder`."""
    folded = fold(network)
    card = {
        "family": "torchvision",
        "input_wh": [INPUT_PX, INPUT_PX],
        "head": {"label_numbers": list(range(1, len(LABELS) + 1))},  # 0 is the background
        # The graph has its own suppression inside.
        "thresholds": {"score": 0.7, "iou": 1.0, "max_detections": 100},
        "candidates": DETECTIONS,
    }
    publish(folder, card, lambda path: _write(folded, path))
