"""LibreYOLO, one package with many lines of detectors, judged by its own runner on the ONNX file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import cv2
import libreyolo
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from case import case_folder, save_expected, save_pictures, settle_batch_norm, spread

SIDE, CLASSES = 320, 7
SCORE = 0.01
IOU = 1.0  # nothing suppressed: LibreYOLO clips boxes first, which gives another answer at the edges
# name: class, size, layers that score, median of their output
CASES = {
    "yolox_n": ("LibreYOLOX", "n", r"head\.(cls|obj)_preds\.\d", -1.5),
    "yolonas_s": ("LibreYOLONAS", "s", r".*\.cls_pred", -3.5),
    "picodet_s": ("LibrePICODET", "s", r"head\.gfl_cls\.\d", -3.5),
    "rtmdet_t": ("LibreRTMDet", "t", r"head\.rtm_cls\.\d", -3.5),
    "dfine_n": ("LibreDFINE", "n", r".*(enc|dec)_score_head(\.\d)?", -2.0),
    "deim_n": ("LibreDEIM", "n", r".*(enc|dec)_score_head(\.\d)?", -2.0),
}
LETTERBOX = ("yolo", "rtmdet")  # the others stretch
# Mean and deviation, about, where pixels are not brought to 0..1; only for the statistics
PIXELS = {"yolox_n": (0, 1), "picodet_s": (114, 58), "rtmdet_t": (114, 58)}
# The preprocess of the package where detserve would guess another; statistics of pixels in 0..255
SAID = {
    "picodet_s": {
        "resize": "stretch",
        "scale": 1,
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
    },
    "rtmdet_t": {
        "resize": "letterbox_topleft",
        "color": "bgr",
        "scale": 1,
        "mean": [103.53, 116.28, 123.675],
        "std": [57.375, 57.12, 58.395],
    },
}


def export(name: str, out: Path) -> None:
    """Export one case and say what LibreYOLO finds with the file."""
    kind, size, scoring, middle = CASES[name]
    torch.manual_seed(0)
    folder = case_folder(out, name)
    pictures = save_pictures(folder, (SIDE, SIDE))
    detector = getattr(libreyolo, kind)(None, size=size, nb_classes=CLASSES, device="cpu")
    net = detector.model.eval()
    mean, std = PIXELS.get(name, (0, 255))
    batch = (torch.cat([network_input(path) for path in pictures]) - mean) / std
    settle_batch_norm(net, lambda: net(batch))
    layers = [
        part for path, part in net.named_modules() if re.fullmatch(scoring, path) and hasattr(part, "weight")
    ]
    for layer in layers:
        spread([layer], lambda: net(batch), middle=middle, top=2.5)
    if "yolox" in name:  # logarithms of the sides
        spread([*net.head.reg_preds], lambda: net(batch), middle=1.0, top=2.5)
    path = folder / f"{name}.onnx"
    detector.export("onnx", imgsz=SIDE, output_path=str(path))
    runner = libreyolo.LibreYOLO(str(path), device="cpu")
    if name in SAID:
        (folder / "said.json").write_text(json.dumps({"preprocess": SAID[name]}))
    found = {path: predicted(runner, path, letterbox=name.startswith(LETTERBOX)) for path in pictures}
    suppressed = {} if name.startswith("d") else {"iou_threshold": IOU}
    reference = "predict() on the ONNX file, behind OpenCV's resize"
    save_expected(
        folder,
        packages=("libreyolo", "torch"),
        model=name,
        reference=reference,
        found=found,
        **suppressed,
        best_class=name == "picodet_s",
    )


def network_input(path: Path) -> torch.Tensor:
    """RGB float [2,3,S,S] in 0..255: stretched, and in a grey letterbox; statistics hold for both."""
    picture = cv2.imread(str(path))[..., ::-1]
    stretched, letterbox = cv2.resize(picture, (SIDE, SIDE)), np.full((SIDE, SIDE, 3), 114, np.uint8)
    ratio = SIDE / max(picture.shape)
    fitted = cv2.resize(picture, None, fx=ratio, fy=ratio)
    letterbox[: fitted.shape[0], : fitted.shape[1]] = fitted
    return torch.from_numpy(np.stack([stretched, letterbox]).transpose(0, 3, 1, 2).copy()).float()


def predicted(runner: object, path: Path, *, letterbox: bool) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score and class in pixels of the picture, which OpenCV resizes."""
    picture = cv2.imread(str(path))
    height, width = picture.shape[:2]
    ratio = SIDE / max(height, width)
    wh = (round(width * ratio), round(height * ratio)) if letterbox else (SIDE, SIDE)
    resized = path.with_name("resized.png")
    cv2.imwrite(str(resized), cv2.resize(picture, wh))
    result = runner.predict(str(resized), conf=SCORE, iou=IOU, max_det=300)
    resized.unlink()
    boxes = (result[0] if isinstance(result, list) else result).boxes
    corners = np.asarray(boxes.xyxy) * np.tile([width / wh[0], height / wh[1]], 2)
    return np.column_stack([corners, np.asarray(boxes.conf), np.asarray(boxes.cls)])


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        export(case, Path(sys.argv[1]))
