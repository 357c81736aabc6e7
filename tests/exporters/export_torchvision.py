"""torchvision's detectors by torch.onnx.export without dynamo, judged by the same model in PyTorch.

The default exporter (dynamo) fails on all of them; ``python export_torchvision.py --dynamo OUT`` shows how.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

sys.path.insert(0, str(Path(__file__).parent))
from case import case_folder, read_resized, save_expected, save_pictures, settle_batch_norm, spread

PACKAGES = ("torchvision", "torch")
SIDE = 224
SIZES = {"min_size": SIDE, "max_size": SIDE}
CLASSES = 6  # the background included
NONE = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}


def resnet18(**options: object) -> torch.nn.Module:
    """The feature pyramid of the smallest ResNet."""
    norm = torch.nn.BatchNorm2d
    return resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5, **options
    )


def one_stage(make: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    """RetinaNet or FCOS on levels 3 to 7."""
    backbone = resnet18(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return make(backbone, num_classes=CLASSES, **SIZES)


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "fasterrcnn_resnet18_fpn": lambda: detection.FasterRCNN(resnet18(), num_classes=CLASSES, **SIZES),
    "fasterrcnn_mobilenet_v3_large_320_fpn": lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        **NONE, **SIZES
    ),
    "maskrcnn_resnet18_fpn": lambda: detection.MaskRCNN(resnet18(), num_classes=CLASSES, **SIZES),
    "retinanet_resnet18_fpn": lambda: one_stage(detection.RetinaNet),
    "fcos_resnet18_fpn": lambda: one_stage(detection.FCOS),
    "ssd300_vgg16": lambda: detection.ssd300_vgg16(**NONE),
    "ssdlite320_mobilenet_v3_large": lambda: detection.ssdlite320_mobilenet_v3_large(**NONE),
}
# name: model, how it is exported
CASES = {
    **{name: (name, "") for name in MODELS},
    "fasterrcnn_resnet18_fpn_chw": ("fasterrcnn_resnet18_fpn", "one picture [3,H,W] in a list"),
    "fasterrcnn_resnet18_fpn_open": ("fasterrcnn_resnet18_fpn", "open height and width"),
    "fasterrcnn_resnet18_fpn_opset11": ("fasterrcnn_resnet18_fpn", "opset_version=11"),
    "retinanet_resnet18_fpn_named": ("retinanet_resnet18_fpn", "outputs named boxes, scores, labels"),
    "retinanet_resnet18_fpn_chw": ("retinanet_resnet18_fpn", "one picture [3,H,W] in a list"),
    "ssdlite320_mobilenet_v3_large_oblong": ("ssdlite320_mobilenet_v3_large", "input 320x240"),
}


def export(name: str, out: Path, *, dynamo: bool = False) -> None:
    """Export one case and say what PyTorch finds."""
    model_name, options = CASES[name]
    torch.manual_seed(0)
    folder = case_folder(out, name)
    side = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}.get(model_name, SIDE)
    wh = (320, 240) if "320x240" in options else (side, side)
    pictures = save_pictures(folder, wh, (wh[0] // 2, wh[1] // 2))
    model = MODELS[model_name]().eval()
    model.transform.image_mean, model.transform.image_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    tensors = [as_tensor(path, wh) for path in pictures]
    make_lively(model, tensors)
    image = tensors[0]
    names = {"output_names": ["boxes", "scores", "labels"]} if "named" in options else {}
    if options.startswith("open"):
        names["dynamic_axes"] = {"images": {2: "height", 3: "width"}}
    torch.onnx.export(
        model,
        ([image],) if "list" in options else (image[None],),
        folder / f"{model_name}.onnx",
        opset_version=11 if options == "opset_version=11" else 18,
        input_names=["images"],
        dynamo=dynamo,
        **names,
    )
    task = "boxes of segment" if model_name.startswith("mask") else "detect"
    if options.startswith("open"):
        (folder / "said.json").write_text(json.dumps({"input_wh": wh}))
    found = {path: detected(model, path, wh) for path in pictures}
    save_expected(
        folder, packages=PACKAGES, model=model_name, task=task, options=f"dynamo=False {options}".strip(),
        reference="the model in PyTorch, behind OpenCV's resize", found=found,
    )  # fmt: skip


def as_tensor(path: Path, wh: tuple[int, int]) -> torch.Tensor:
    """RGB float [3,H,W] in 0..1, of the exported size."""
    return torch.from_numpy(read_resized(path, wh).transpose(2, 0, 1).copy()).float() / 255


def make_lively(model: torch.nn.Module, tensors: list[torch.Tensor]) -> None:
    """Scores and boxes that differ from place to place."""
    run = lambda: model(tensors)  # noqa: E731
    settle_batch_norm(model, run)
    by_name = dict(model.named_modules())
    for part, values in HEADS.items():
        layers = [
            layer
            for name, layer in by_name.items()
            if part in name and isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1
        ]
        spread(layers, run, **values)


LAYERS = (torch.nn.Conv2d, torch.nn.Linear)
HEADS = {
    "rpn.head.cls_logits": {"middle": 0.0, "top": 3.0},
    "rpn.head.bbox_pred": {"middle": 0.0, "top": 1.0},
    "box_predictor.cls_score": {"middle": 0.0, "top": 3.0},
    "box_predictor.bbox_pred": {"middle": 0.0, "top": 3.0},
    "classification_head.cls_logits": {"middle": -3.5, "top": 2.5},
    "regression_head.bbox_reg": {"middle": 0.5, "top": 1.5},
    "regression_head.bbox_ctrness": {"middle": 0.0, "top": 2.0},
    "classification_head.module_list": {"middle": 0.0, "top": 3.0},
    "regression_head.module_list": {"middle": 0.0, "top": 3.0},
}


def detected(model: torch.nn.Module, path: Path, wh: tuple[int, int]) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score and label - 1, in pixels of the picture."""
    height, width = cv2.imread(str(path)).shape[:2]
    with torch.no_grad():
        (found,) = model([as_tensor(path, wh)])
    boxes = found["boxes"] * torch.tensor([width / wh[0], height / wh[1]]).repeat(2)
    rows = torch.cat([boxes, found["scores"][:, None], found["labels"][:, None] - 1], dim=1).numpy()
    return rows[rows[:, 5] >= 0]  # an untrained RetinaNet or FCOS finds background too


if __name__ == "__main__":
    dynamo = "--dynamo" in sys.argv
    out, *chosen = [argument for argument in sys.argv[1:] if argument != "--dynamo"]
    for case in chosen or CASES:
        export(case, Path(out), dynamo=dynamo)
