"""Precision over recall, drawn."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from detserve_core.datasets.average_precision import RECALLS, PrecisionRecall
from detserve_core.errors import MissingExtra

_COLUMNS = 8
_PANEL_IN = 1.7
_ALL_IN = 4.2
_IOUS = (("IoU .50", 0), ("IoU .75", 5))


def require_plotting() -> None:
    """Raise :class:`MissingExtra` where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("matplotlib", "perf") from None


def precision_recall_png(curves: PrecisionRecall, title: str) -> bytes:
    """One panel for the mean of all classes, and small ones for those with boxes, best first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    annotated = np.flatnonzero((curves.precision > -1).any(axis=(0, 1)))
    precision = curves.precision[..., annotated]
    order = np.argsort(-precision.mean(axis=(0, 1)), kind="stable")
    rows = math.ceil(len(order) / _COLUMNS)
    size_in = (_COLUMNS * _PANEL_IN, _ALL_IN + rows * _PANEL_IN)
    figure = Figure(figsize=size_in, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    layout: Any = figure.subfigures(2, 1, height_ratios=(_ALL_IN, rows * _PANEL_IN))
    above, below = layout
    above.suptitle(title)
    _draw_all(above.subplots(), precision)
    panels = below.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, position in zip(panels, order, strict=False):
        own = precision[..., position]
        _draw(panel, own)
        panel.set_title(f"{curves.labels[annotated[position]]}  {own.mean():.2f}", fontsize=8)
        panel.tick_params(labelsize=6)
    for panel in panels[len(order) :]:
        panel.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_all(panel: Any, precision: Any) -> None:
    mean = precision.mean(axis=2)
    panel.plot(RECALLS, precision[0], color="0.85", linewidth=0.6)
    _draw(panel, mean)
    panel.plot([], [], color="0.85", linewidth=0.6, label="one class at IoU .50")
    panel.set_xlabel("recall")
    panel.set_ylabel("precision")
    panel.legend(loc="upper right", fontsize=8)


def _draw(panel: Any, precision: Any) -> None:
    for (label, index), style in zip(_IOUS, ("-", "--"), strict=True):
        area = precision[index].mean()
        panel.plot(
            RECALLS, precision[index], style, color="C0", linewidth=1.2, label=f"{label}: AP {area:.3f}"
        )
    area = precision.mean()
    panel.plot(
        RECALLS, precision.mean(axis=0), color="C1", linewidth=1.2, label=f"IoU .50 to .95: AP {area:.3f}"
    )
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.02)
    panel.grid(alpha=0.3)
