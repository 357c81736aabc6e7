"""One exported file and what its exporter finds with it, written by the export scripts for the comparison.

Imported in the exporters' environments, which hold numpy, OpenCV, onnx and torch and nothing of detserve.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch

PICTURE = Path(__file__).parents[2] / "builder/detserve_builder/warmup.jpg"
BEST = 60  # rows kept of each picture
SAME = {"score": 1e-3, "iou": 0.99}  # two rows are one detection
# One such file gives scores 0.06 and boxes 3 pixels apart in ONNX Runtime with and without its optimisations
SAME_IN_16_BITS = {"score": 0.06, "iou": 0.9}
DISTINCT = 10  # scores that differ in the third decimal, without which a comparison would say little


def case_folder(out: Path, name: str) -> Path:
    """An empty folder for the case."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def save_pictures(
    folder: Path, input_wh: tuple[int, int], smaller_wh: tuple[int, int] | None = None
) -> list[Path]:
    """Two PNGs: one of the network's size, which no resize touches, and a smaller one of another ratio.

    ``smaller_wh`` is for exporters that keep the ratio without a letterbox, or round what a letterbox leaves.
    """
    picture = cv2.imread(str(PICTURE))
    height, width = picture.shape[:2]
    exact = cv2.resize(picture, input_wh, interpolation=cv2.INTER_AREA)
    part = picture[height // 8 : height * 5 // 8, width // 16 : width * 15 // 16]
    scale = 0.7 * min(input_wh[0] / part.shape[1], input_wh[1] / part.shape[0])
    wh = smaller_wh or (int(part.shape[1] * scale), int(part.shape[0] * scale))
    smaller = cv2.resize(part, wh, interpolation=cv2.INTER_AREA)
    paths = [folder / "exact.png", folder / "smaller.png"]
    for path, pixels in zip(paths, (exact, smaller), strict=True):
        cv2.imwrite(str(path), pixels)
    return paths


def read_resized(path: Path, input_wh: tuple[int, int]) -> np.ndarray:
    """RGB uint8 [H,W,3] of the network's size, by OpenCV's bilinear as in detserve.

    For exporters that interpolate in float or by PIL: an untrained network answers a difference of one in 255
    with another choice of queries and proposals.
    """
    return cv2.resize(cv2.imread(str(path)), input_wh)[..., ::-1].copy()


def save_expected(
    folder: Path,
    *,
    packages: Sequence[str],
    model: str,
    task: str = "detect",
    options: str = "",
    reference: str = "",
    found: dict[Path, Any] | None = None,
    iou_threshold: float | None = None,
    alike: dict[str, float] = SAME,
    best_class: bool = False,
    refused: str | None = None,
) -> None:
    """Write expected.json beside the one ONNX file of the folder.

    ``found`` maps a picture to rows [n,6] of x1, y1, x2, y2 in its pixels, score and class (counted without a
    background); the best are kept. ``iou_threshold`` is that of the exporter's suppression where it is not in
    the file. ``alike`` says how close a served row must be; with ``best_class`` the exporter lists a box once
    for each class, of which detserve serves the best. ``refused`` is a pattern of the sentence that is right
    for a file that cannot be served.
    """
    (path,) = folder.glob("*.onnx")
    opsets = {opset.domain: opset.version for opset in onnx.load(path, load_external_data=False).opset_import}
    expected = {
        "model": model,
        "task": task,
        "options": options,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "onnx": path.name,
        "opset": opsets.get("", opsets.get("ai.onnx")),
        "reference": reference,
        "iou_threshold": iou_threshold,
        "alike": alike,
        "best_class": best_class,
        "refused": refused,
        "pictures": {
            path.name: _best(np.asarray(rows, np.float64), best_class) for path, rows in (found or {}).items()
        },
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))
    for picture, best in expected["pictures"].items():
        distinct = np.unique(np.round([row[4] for row in best["rows"]], 3))
        if len(distinct) < DISTINCT:
            sys.exit(f"{folder}/{picture}: the scores are too much alike to compare: {distinct}")
    counts = ", ".join(f"{name} {len(best['rows'])}" for name, best in expected["pictures"].items())
    print(f"{folder}: opset {expected['opset']}, {counts or refused}", flush=True)


def _best(rows: np.ndarray, best_class: bool) -> dict[str, Any]:
    """The best rows and where they end; suppression goes best first, so the rest changes nothing."""
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    if best_class:
        rows = rows[np.sort(np.unique(rows[:, :4], axis=0, return_index=True)[1])]
    rows = rows[: BEST + 1]
    threshold = rows[-2:, 4].mean() if len(rows) > BEST else rows[-1, 4]
    return {"score_threshold": round(float(threshold), 6), "rows": rows[:BEST].round(5).tolist()}


def settle_batch_norm(model: torch.nn.Module, run: Callable[[], object]) -> None:
    """Batch-norm statistics of what ``run`` sends through; without them an untrained net dies or explodes."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    norms = [module for module in model.modules() if isinstance(module, kind)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        run()
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


def spread(
    layers: Sequence[torch.nn.Module], run: Callable[[], object], *, middle: float, top: float
) -> None:
    """Scale each layer until every channel of its output has this median and goes no further than ``top``.

    An untrained head scores every place alike; after this its scores and boxes differ as a trained one's do.
    """
    for layer in layers:
        if not layer.weight.any():
            torch.nn.init.normal_(layer.weight)
    with _recorded(layers) as seen, torch.no_grad():
        run()
    for layer, outputs in zip(layers, seen, strict=True):
        if not outputs:
            continue
        values = torch.cat(outputs)
        median = values.median(dim=0).values
        factor = (top - middle) / (values - median).abs().amax(dim=0).clamp_min(1e-6)
        with torch.no_grad():
            layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias.copy_((layer.bias - median) * factor + middle)


@contextmanager
def _recorded(layers: Sequence[torch.nn.Module]) -> Iterator[list[list[torch.Tensor]]]:
    """The outputs of each layer while the block runs, as rows of channels."""
    seen: list[list[torch.Tensor]] = [[] for _ in layers]

    def keep(rows: list[torch.Tensor]) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            channels_last = output.movedim(1, -1) if isinstance(module, torch.nn.Conv2d) else output
            rows.append(channels_last.detach().flatten(0, -2))

        return hook

    handles = [layer.register_forward_hook(keep(rows)) for layer, rows in zip(layers, seen, strict=True)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
