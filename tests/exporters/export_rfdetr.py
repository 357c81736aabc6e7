"""RF-DETR, judged by its own predict() in PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import rfdetr
import torch

sys.path.insert(0, str(Path(__file__).parent))
from case import case_folder, read_resized, save_expected, save_pictures, spread

CLASSES = 7
SMALL = {"pretrain_weights": None, "device": "cpu", "num_classes": CLASSES, "hidden_dim": 64, "sa_nheads": 4,
         "ca_nheads": 4, "group_detr": 2, "num_queries": 60, "num_select": 300}  # fmt: skip
# name: class, side in pixels, patch, options of export()
CASES = {
    "nano": ("RFDETRNano", 192, 16, {}),
    "nano_dynamic_batch": ("RFDETRNano", 192, 16, {"dynamic_batch": True}),
    "nano_opset18": ("RFDETRNano", 192, 16, {"opset_version": 18}),
    "seg_nano": ("RFDETRSegNano", 192, 12, {}),
}


def export(name: str, out: Path) -> None:
    """Export one case and say what PyTorch finds with it."""
    kind, side, patch, options = CASES[name]
    torch.manual_seed(0)
    folder = case_folder(out, name)
    pictures = save_pictures(folder, (side, side))
    detector = getattr(rfdetr, kind)(**SMALL, resolution=side, positional_encoding_size=side // patch)
    make_lively(detector.model.model.eval(), pictures, side)
    found = {path: detected(detector, path, side) for path in pictures}
    detector.export(output_dir=str(folder), verbose=False, **options)
    said = ", ".join(f"{key}={value}" for key, value in options.items())
    packages = ("rfdetr", "transformers", "torch")
    task = "boxes of segment" if "Seg" in kind else "detect"
    save_expected(
        folder,
        packages=packages,
        model=kind,
        task=task,
        options=said,
        reference="predict() in PyTorch, behind OpenCV's resize",
        found=found,
    )


def make_lively(net: torch.nn.Module, pictures: list[Path], side: int) -> None:
    """Scores that differ from query to query; the surplus last column stays low, as training leaves it."""
    images = [read_resized(path, (side, side)) for path in pictures]
    batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()).float() / 255
    heads = [net.transformer.enc_out_class_embed[0], net.class_embed]
    for head in heads:
        spread([head], lambda: net(batch), middle=-2.0, top=3.0)
        with torch.no_grad():
            head.weight[-1].zero_()
            head.bias[-1] = -9.0


def detected(detector: rfdetr.RFDETRNano, path: Path, side: int) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score and class in pixels of the picture."""
    height, width = cv2.imread(str(path)).shape[:2]
    found = detector.predict(read_resized(path, (side, side)), threshold=0.01)
    boxes = found.xyxy * np.tile([width / side, height / side], 2)
    return np.column_stack([boxes, found.confidence, found.class_id])


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        export(case, Path(sys.argv[1]))
