"""Draws overview.png, the picture of README: what detserve does, and what it finds in a sample.

Run it from the checkout: ``python docs/images/overview.py``. It is made for a column of 600 pixels, where no
letter is smaller than 11 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

import detserve

CHECKOUT = Path(__file__).parents[2]
WIDTH_PX, HEIGHT_PX, CUT_PX = 1200, 690, 180
BLUE, GREEN, ORANGE = ("#eef1fb", "#3f51b5"), ("#e6f4ea", "#2e7d32"), ("#fff4e5", "#b26a00")


def box(axes: Any, place: tuple[int, int, int, int], colors: tuple[str, str], *lines: str) -> None:
    """A rounded box at left, top, width, height; a title and smaller lines in it."""
    left, top, width, height = place
    face, edge = colors
    style = "round,pad=0,rounding_size=12"
    axes.add_patch(FancyBboxPatch((left, top), width, height, boxstyle=style, fc=face, ec=edge, lw=2))
    first = top + height / 2 - 17 * (len(lines) - 1)
    for index, line in enumerate(lines):
        size, color = (21, "#1a1a1a") if index == 0 else (17, "#444444")
        x, y = left + width / 2, first + 34 * index
        axes.text(x, y, line, size=size, color=color, ha="center", va="center")


def arrow(axes: Any, start: tuple[int, int], end: tuple[int, int], text: str = "") -> None:
    """An arrow with a command above it."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 2.5, "color": "#333333"})
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 20)
    axes.text(*middle, text, size=16, color="#333333", ha="center", va="center", family="monospace")


def picture(axes: Any, left: int, pixels: Any, found: Any = ()) -> None:
    """BGR pixels without their upper edge, scaled, and the detections in them."""
    scale = 410 / (pixels.shape[0] - CUT_PX)
    extent = (left, left + scale * pixels.shape[1], 660, 250)
    axes.imshow(pixels[CUT_PX:, :, ::-1], extent=extent, zorder=2, aspect="equal")
    for detection in found:
        x1, y1, x2, y2 = detection.box_px
        x, y = left + scale * x1, 250 + scale * (y1 - CUT_PX)
        color = {"aztec": "#00a152", "pdf417": "#d84315"}[detection.label]
        size = (scale * (x2 - x1), scale * (y2 - y1))
        axes.add_patch(Rectangle((x, y), *size, fill=False, ec=color, lw=4, zorder=3))
        label = f"{detection.label} {detection.score:.2f}"
        axes.text(x, y - 6, label, size=16, color="white", va="bottom", zorder=4, backgroundcolor=color)


def main() -> None:
    """Detect in a sample, draw, save."""
    sample = cv2.imread(str(CHECKOUT / "zoo/samples/scene_2.jpg"))
    with detserve.serve(detserve.Detector("codes_yolo", CHECKOUT / "model_repository")) as client:
        found = client.detect(sample)
    figure = plt.figure(figsize=(WIDTH_PX / 100, HEIGHT_PX / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    box(axes, (20, 40, 250, 130), BLUE, "checkpoint", "best.onnx")
    arrow(axes, (275, 105), (435, 105), "build")
    box(axes, (440, 40, 290, 130), BLUE, "model repository", "steps, network, card")
    arrow(axes, (735, 105), (895, 105), "serve")
    box(axes, (900, 40, 280, 130), GREEN, "Triton", "decode, resize,", "network, NMS")
    picture(axes, 40, sample)
    arrow(axes, (330, 455), (465, 455), "detect")
    box(axes, (470, 375, 290, 160), ORANGE, "gateway", "TLS, API keys, limits,", "audit log")
    arrow(axes, (762, 400), (935, 178))
    arrow(axes, (1030, 175), (1030, 245))
    picture(axes, 890, sample, found)
    axes.set_xlim(0, WIDTH_PX)
    axes.set_ylim(HEIGHT_PX, 0)
    figure.savefig(Path(__file__).with_name("overview.png"), facecolor="white")


if __name__ == "__main__":
    main()
