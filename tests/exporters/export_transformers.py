"""Hugging Face's detectors, judged by the model in PyTorch and its own image processor.

In an environment with optimum-onnx the export is optimum's, elsewhere torch.onnx.export's default (dynamo).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from case import case_folder, read_resized, save_expected, save_pictures, settle_batch_norm, spread

OPTIMUM = importlib.util.find_spec("optimum") is not None
SIDE = 224
FIXED = {"height": SIDE, "width": SIDE}
EDGES = {"shortest_edge": 192, "longest_edge": 256}
LABELS = {index: f"label {index}" for index in range(7)}
RESNET = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 96],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
STAGES = ["stage2", "stage3", "stage4"]
TRANSFORMER = {
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 128),
    **{"d_model": 64, "num_queries": 60, "init_std": 0.15},
}
PYRAMID = {
    **{**TRANSFORMER, "encoder_layers": 1, "num_queries": 100},
    **{"encoder_hidden_dim": 64, "encoder_in_channels": [32, 64, 96], "decoder_in_channels": [64, 64, 64]},
    **{"feat_strides": [8, 16, 32], "anchor_image_size": None, "freeze_backbone_batch_norms": False},
}
YOLOS = {
    **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128},
    **{"image_size": [SIDE, SIDE], "num_detection_tokens": 60, "initializer_range": 0.15},
}
DEFORMABLE = {**TRANSFORMER, "num_feature_levels": 3}


def resnet(out_features: list[str]) -> dict[str, Any]:
    """The backbone as the models of the DETR line take it."""
    config = transformers.ResNetConfig(**RESNET, out_features=out_features)
    return {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone_config": config}


def rt_detr(**more: Any) -> dict[str, Any]:
    """RT-DETR's own ResNet under its hybrid encoder."""
    return {
        "backbone_config": transformers.RTDetrResNetConfig(**RESNET, out_features=STAGES),
        **PYRAMID,
        **more,
    }


def d_fine() -> dict[str, Any]:
    """D-FINE's HGNet, narrowed."""
    backbone = transformers.HGNetV2Config(
        embedding_size=16,
        stem_channels=[3, 8, 8],
        hidden_sizes=[16, 32, 64, 96],
        depths=[1, 1, 1, 1],
        stage_in_channels=[8, 16, 32, 64],
        stage_mid_channels=[8, 16, 24, 32],
        stage_out_channels=[16, 32, 64, 96],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        out_features=STAGES,
    )
    return {"backbone_config": backbone, **PYRAMID, "decoder_n_levels": 3}


ONE_LEVEL, LEVELS = {**resnet(["stage4"]), **TRANSFORMER}, {**resnet(STAGES), **DEFORMABLE}
# name: model type, configuration, the processor's size
CASES: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "detr": ("Detr", ONE_LEVEL, FIXED),
    "detr_edges": ("Detr", ONE_LEVEL, EDGES),
    "table_transformer": ("TableTransformer", ONE_LEVEL, FIXED),
    "yolos": ("Yolos", YOLOS, FIXED),
    "conditional_detr": ("ConditionalDetr", {**ONE_LEVEL, "init_std": 0.6}, FIXED),
    "deformable_detr": ("DeformableDetr", LEVELS, FIXED),
    "deformable_detr_two_stage": (
        "DeformableDetr",
        {**LEVELS, "two_stage": True, "with_box_refine": True},
        FIXED,
    ),
    "dab_detr": ("DabDetr", {**ONE_LEVEL, "hidden_size": 64, "init_std": 0.3}, FIXED),
    "rt_detr": ("RTDetr", rt_detr(), FIXED),
    "rt_detr_v2": ("RTDetrV2", rt_detr(decoder_n_levels=3), FIXED),
    "d_fine": ("DFine", d_fine(), FIXED),
}
OPTIMUM_TAKES = ("Detr", "TableTransformer", "Yolos", "RTDetr", "RTDetrV2", "DFine")
PROCESSORS = {
    "TableTransformer": "Detr",
    "DabDetr": "ConditionalDetr",
    "RTDetrV2": "RTDetr",
    "DFine": "RTDetr",
}
# torch 2.14's default exporter has no ONNX function for their aten._is_all_true
NOT_BY_DYNAMO = ("RTDetrV2", "DFine")
# That exporter's file of it lacks the bounds of a Clip, which ONNX Runtime refuses too
REFUSED = {"deformable_detr_two_stage": "nothing makes"}
SCORES = ("class_labels_classifier", "class_embed", "enc_score_head", "class_embed.0", "class_embed.1")


def export(name: str, out: Path) -> None:
    """Export one case and say what PyTorch finds with it."""
    kind, settings, size = CASES[name]
    torch.manual_seed(1)
    folder = case_folder(out, name)
    wh = (256, 192) if size is EDGES else (SIDE, SIDE)
    pictures = save_pictures(folder, wh, (wh[0] // 2, wh[1] // 2) if size is EDGES else None)
    config = getattr(transformers, f"{kind}Config")(**settings, id2label=LABELS)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    processor = getattr(transformers, f"{PROCESSORS.get(kind, kind)}ImageProcessor")(size=size, do_pad=False)
    resized = [read_resized(path, wh) for path in pictures]
    inputs = processor(resized, return_tensors="pt")["pixel_values"]
    if size is EDGES:  # every side is open, and the processor's edges do not say which picture is usual
        (folder / "said.json").write_text(json.dumps({"input_wh": wh}))
    make_lively(model, inputs)
    model.save_pretrained(folder, max_shard_size="1GB")
    processor.save_pretrained(folder)
    if OPTIMUM:
        save_by_optimum(folder)
    else:
        save_by_torch(model, folder, inputs[:1], dynamo=kind not in NOT_BY_DYNAMO)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    packages = ("optimum-onnx", "transformers", "torch") if OPTIMUM else ("transformers", "torch")
    found = {path: detected(model, processor, path, wh) for path in pictures}
    said = f"size {size}" if size is EDGES else ""
    if not OPTIMUM and kind in NOT_BY_DYNAMO:
        said = "dynamo=False, the default exporter fails"
    if not OPTIMUM and name in REFUSED:
        save_expected(folder, packages=packages, model=name, refused=REFUSED[name])
        return
    reference = "the model and post_process_object_detection in PyTorch, behind OpenCV's resize"
    save_expected(folder, packages=packages, model=name, options=said, reference=reference, found=found)


def save_by_optimum(folder: Path) -> None:
    """What ``optimum-cli export onnx --task object-detection`` does."""
    from optimum.exporters.onnx import main_export

    main_export(
        str(folder), folder, task="object-detection", library_name="transformers", local_files_only=True
    )


def save_by_torch(model: Any, folder: Path, inputs: torch.Tensor, *, dynamo: bool) -> None:
    """PyTorch's exporter, logits and boxes only."""

    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            outputs = self.model(pixel_values)
            return outputs.logits, outputs.pred_boxes

    names = {"input_names": ["pixel_values"], "output_names": ["logits", "pred_boxes"]}
    torch.onnx.export(Heads().eval(), (inputs,), folder / "model.onnx", dynamo=dynamo, **names)


def make_lively(model: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Scores that differ from query to query."""
    run = lambda: model(inputs)  # noqa: E731
    tokens = [value for name, value in model.named_parameters() if name.endswith("detection_tokens")]
    for value in tokens:  # zeros before training
        torch.nn.init.normal_(value)
    settle_batch_norm(model, run)
    heads = [part for name, part in model.named_modules() if name.endswith(SCORES)]
    layers = [list(part.modules())[-1] for part in heads if not isinstance(part, torch.nn.ModuleList)]
    softmax = type(model).__name__.startswith(("DetrFor", "Table", "Yolos"))
    if type(model).__name__.startswith("ConditionalDetr"):  # its sides would be 0 or 1
        spread([model.bbox_predictor.layers[-1]], run, middle=0.0, top=2.0)
    for layer in dict.fromkeys(layers):
        spread([layer], run, middle=0.0 if softmax else -2.0, top=3.0)


def detected(model: Any, processor: Any, path: Path, wh: tuple[int, int]) -> torch.Tensor:
    """Rows of x1, y1, x2, y2, score and class in pixels of the picture."""
    size_wh = Image.open(path).size
    with torch.no_grad():
        outputs = model(**processor(read_resized(path, wh), return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, threshold=0.01, target_sizes=[size_wh[::-1]])
    return torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None]], dim=1)


if __name__ == "__main__":
    available = [case for case, (kind, *_) in CASES.items() if not OPTIMUM or kind in OPTIMUM_TAKES]
    for case in sys.argv[2:] or available:
        export(case, Path(sys.argv[1]))
