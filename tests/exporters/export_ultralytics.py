"""Ultralytics: every generation and export option, judged by Ultralytics' own predictor on the ONNX file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from ultralytics import RTDETR, YOLO
from ultralytics.data.augment import LetterBox

sys.path.insert(0, str(Path(__file__).parent))
from case import SAME_IN_16_BITS, case_folder, save_expected, save_pictures, settle_batch_norm, spread

PACKAGES = ("ultralytics", "torch")
SCORE, IOU = 0.05, 0.7  # of the predictor
NMS = {"conf": SCORE, "iou": IOU}  # written into the graph by nms=True
DETECT = (
    "yolov3-tiny",
    "yolov5n",
    "yolov6n",
    "yolov8n",
    "yolov9t",
    "yolov10n",
    "yolo11n",
    "yolo12n",
    "yolo26n",
)
# name: yaml, options of export()
CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in DETECT},
    "yolov8n_p2": ("yolov8n-p2", {}),
    **{f"{name}_end2end": (name, {"nms": False}) for name in ("yolov10n", "yolo26n")},
    **{f"{name}_nms": (name, {"nms": True}) for name in ("yolov8n", "yolo11n", "yolo26n")},
    **{f"{name}_half": (name, {"half": True}) for name in ("yolov8n", "yolo26n")},
    **{f"{name}_dynamic": (name, {"dynamic": True}) for name in ("yolov8n", "yolo26n")},
    "yolo26n_end2end_dynamic_half": ("yolo26n", {"nms": False, "dynamic": True, "half": True}),
    "yolov8n_nms_dynamic": ("yolov8n", {"nms": True, "dynamic": True}),
    "yolo11n_oblong": ("yolo11n", {"imgsz": (192, 320)}),
    "yolov8n_opset12": ("yolov8n", {"opset": 12}),
    "yolo11n_opset20": ("yolo11n", {"opset": 20}),
    "yolov8n_batch4": ("yolov8n", {"batch": 4}),
    **{f"{name}_seg": (f"{name}-seg", {}) for name in ("yolov8n", "yolo11n", "yolo26n")},
    **{f"{name}_pose": (f"{name}-pose", {}) for name in ("yolov8n", "yolo11n", "yolo26n")},
    "yolo26n_pose_end2end": ("yolo26n-pose", {"nms": False}),
    "yolo26n_seg_end2end": ("yolo26n-seg", {"nms": False}),
    "yolo11n_seg_nms": ("yolo11n-seg", {"nms": True}),
    "yolo11n_pose_nms": ("yolo11n-pose", {"nms": True}),
    **{f"{name}_obb": (f"{name}-obb", {}) for name in ("yolov8n", "yolo26n")},
    "yolo26n_obb_end2end": ("yolo26n-obb", {"nms": False}),
    "yolo11n_cls": ("yolo11n-cls", {}),
    "rtdetr_l": ("rtdetr-l", {}),
}
REFUSED = {"obb": "oriented|rotated", "classify": "classif"}


def export(name: str, out: Path) -> None:
    yaml, options = CASES[name]
    torch.manual_seed(0)
    folder = case_folder(out, name)
    height, width = imgsz = options.get("imgsz", (320, 320))
    pictures = save_pictures(folder, (width, height))
    detector = lively(yaml, pictures, imgsz)
    detector.save(folder / f"{yaml}.pt")
    exported = type(detector)(folder / f"{yaml}.pt").export(
        **{"format": "onnx", "imgsz": imgsz, "device": "cpu", **NMS, **options}
    )
    assert Path(exported).parent == folder
    (folder / f"{yaml}.pt").unlink()
    said = {"packages": PACKAGES, "model": yaml, "task": detector.task}
    if options.get("half"):
        said["alike"] = SAME_IN_16_BITS
    said["options"] = ", ".join(f"{key}={value}" for key, value in options.items())
    if options.get("batch", 1) != 1:
        save_expected(folder, **said, refused="fixed at batch 4")
    elif detector.task in REFUSED:
        save_expected(folder, **said, refused=REFUSED[detector.task])
    else:
        runner = RTDETR(exported) if isinstance(detector, RTDETR) else YOLO(exported, task=detector.task)
        found = {path: predicted(runner, path, imgsz) for path in pictures}
        if "nms" not in options and not isinstance(detector, RTDETR):  # then suppression is the predictor's
            said["iou_threshold"] = IOU
        save_expected(folder, **said, reference="predict() on the ONNX file", found=found)


def lively(yaml: str, pictures: list[Path], imgsz: tuple[int, int]) -> YOLO | RTDETR:
    """An untrained network whose scores and boxes differ from place to place."""
    detector = (RTDETR if "rtdetr" in yaml else YOLO)(f"{yaml}.yaml")
    net = detector.model.float().eval()
    net.names = {index: f"label {index}" for index in net.names}
    batch = network_input(pictures, imgsz, stretch=isinstance(detector, RTDETR))
    settle_batch_norm(net, lambda: net(batch))
    head, run = net.model[-1], lambda: net(batch)
    if isinstance(detector, RTDETR):
        spread([head.enc_score_head, *head.dec_score_head], run, middle=-3.5, top=2.5)
    elif detector.task != "classify":
        spread_branches(head, run)
    return detector


def spread_branches(head: torch.nn.Module, run: Callable[[], object]) -> None:
    """Scores and distances of both branches, of which a head without suppression has a second one."""
    distances = {"middle": 3.2, "top": 6.0} if head.reg_max == 1 else {"middle": 0.0, "top": 5.0}
    for prefix in ("", "one2one_") if getattr(head, "one2one_cv2", None) is not None else ("",):
        head.end2end = bool(prefix)
        spread([branch[-1] for branch in getattr(head, f"{prefix}cv3")], run, middle=-3.5, top=2.5)
        spread([branch[-1] for branch in getattr(head, f"{prefix}cv2")], run, **distances)


def network_input(pictures: list[Path], imgsz: tuple[int, int], *, stretch: bool) -> torch.Tensor:
    """The pictures as the predictor gives them to the network, RGB float [N,3,H,W] in 0..1."""
    fit = LetterBox(imgsz, auto=False, scale_fill=stretch)
    images = [fit(image=cv2.imread(str(path)))[..., ::-1] for path in pictures]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()).float() / 255


def predicted(detector: YOLO | RTDETR, path: Path, imgsz: tuple[int, int]) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score and class as Ultralytics' own predictor gives them."""
    (result,) = detector.predict(
        path, imgsz=imgsz, conf=SCORE, iou=IOU, max_det=300, rect=False, device="cpu", verbose=False
    )
    return result.boxes.data.numpy()[:, :6]


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        export(case, Path(sys.argv[1]))
