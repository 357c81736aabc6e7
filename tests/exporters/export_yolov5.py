"""The yolov5 package (anchors, objectness), judged by its own suppression on the output of the ONNX file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import yolov5  # puts its folder on the path
from yolov5.export import run
from yolov5.models.common import DetectMultiBackend
from yolov5.models.yolo import DetectionModel, SegmentationModel
from yolov5.utils.augmentations import letterbox
from yolov5.utils.general import non_max_suppression, scale_boxes

sys.path.insert(0, str(Path(__file__).parent))
from case import case_folder, save_expected, save_pictures, settle_batch_norm, spread

MODELS = Path(yolov5.__file__).parent / "models"
SIDE = 320
SCORE, IOU = 0.05, 0.6
# name: yaml, options of export.run()
CASES = {
    "yolov5n": ("yolov5n.yaml", {}),
    "yolov5n_opset17": ("yolov5n.yaml", {"opset": 17}),
    "yolov5n_dynamic": ("yolov5n.yaml", {"dynamic": True, "opset": 18}),
    "yolov5n_seg": ("segment/yolov5n-seg.yaml", {}),
}


def export(name: str, out: Path) -> None:
    """Export one case and say what yolov5 finds with the file."""
    yaml, options = CASES[name]
    torch.manual_seed(0)
    folder = case_folder(out, name)
    pictures = save_pictures(folder, (SIDE, SIDE), (SIDE // 2, 91))  # scale_boxes is exact at a ratio of 2
    batch = torch.cat([network_input(cv2.imread(str(path))) for path in pictures])
    net = (SegmentationModel if "seg" in yaml else DetectionModel)(MODELS / yaml).eval()
    make_lively(net, batch)
    weights = folder / "yolov5n.pt"
    torch.save({"model": net}, weights)
    if options.get("dynamic"):  # and the file does not say a size
        (folder / "said.json").write_text(json.dumps({"input_wh": [SIDE, SIDE]}))
    run(weights=str(weights), imgsz=[SIDE, SIDE], include=("onnx",), device="cpu", **options)
    weights.unlink()
    runner = DetectMultiBackend(str(weights.with_suffix(".onnx")), device=torch.device("cpu"))
    found = {path: detected(runner, path, masks=32 if "seg" in yaml else 0) for path in pictures}
    save_expected(
        folder,
        packages=("yolov5", "torch"),
        model=name.partition("_")[0],
        task="segment" if "seg" in yaml else "detect",
        options=", ".join(f"{key}={value}" for key, value in options.items()),
        reference="DetectMultiBackend and non_max_suppression on the ONNX file",
        found=found,
        iou_threshold=IOU,
    )


def make_lively(net: torch.nn.Module, batch: torch.Tensor) -> None:
    """Every channel of the head alike: places, sides, objectness and classes differ from cell to cell."""
    settle_batch_norm(net, lambda: net(batch))
    spread([*net.model[-1].m], lambda: net(batch), middle=-1.0, top=2.5)
    for layer in net.model[-1].m:  # or several classes would be at their top together, a draw
        share = 0.7 + 0.3 * torch.rand(len(layer.bias))
        layer.weight.data.mul_(share[:, None, None, None])
        layer.bias.data.mul_(share)


def network_input(picture: np.ndarray) -> torch.Tensor:
    """RGB float [1,3,S,S] in 0..1, as detect.py makes it."""
    image = letterbox(picture, SIDE, auto=False)[0][..., ::-1].transpose(2, 0, 1)
    return torch.from_numpy(image.copy()).float()[None] / 255


def detected(runner: DetectMultiBackend, path: Path, masks: int) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score and class."""
    picture = cv2.imread(str(path))
    output = runner(network_input(picture))
    output = output[0] if isinstance(output, list | tuple) else output
    (rows,) = non_max_suppression(output, SCORE, IOU, max_det=300, nm=masks)
    rows[:, :4] = scale_boxes((SIDE, SIDE), rows[:, :4], picture.shape)
    return rows[:, :6].numpy()


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        export(case, Path(sys.argv[1]))
