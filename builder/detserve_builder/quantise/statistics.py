"""What every tensor of the network holds over the calibration pictures, measured once and cached.

Two passes: the range of each tensor, then a histogram of equal bins over it. Every method of choosing a
range, for every target, starts from these histograms.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.graph.session import open_session
from detserve_builder.quantise.calibration import CalibrationError, CalibrationSource, Progress
from detserve_core.errors import OutputError
from detserve_core.machine.cache import cache_folder
from detserve_core.machine.whole_files import write_whole

if TYPE_CHECKING:
    import onnx

BINS = 8192
_VERSION = 1  # part of the cache's key: raise it when the same pictures would give other statistics


@dataclass(frozen=True)
class Statistics:
    """Of T tensors: ``names``; ``low`` and ``high`` float32 [T]; ``counts`` int64 [T,BINS].

    The bins of a tensor divide low..high equally; both ends are values that occurred.
    """

    names: tuple[str, ...]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    counts: NDArray[np.int64]


def measure(
    model: onnx.ModelProto,
    tensors: tuple[str, ...],
    source: CalibrationSource,
    progress: Progress = lambda done, total: None,
    *,
    cache: Path | None = None,
) -> Statistics:
    """Statistics of float32 ``tensors`` of a prepared ``model`` over the pictures of ``source``.

    ``cache`` is a folder; a result is written there whole or not at all, and found again by what it depends
    on: model, tensors, pictures and preprocess spec. Raises :class:`CalibrationError` for a tensor that is
    not finite.
    """
    entry = cache / f"{_key(model, tensors, source)}.npz" if cache else None
    if entry and (known := _read(entry)):
        return known
    measured = _measure(model, tensors, source, progress)
    if entry:
        with suppress(OutputError):  # costs the next build time, nothing else
            write_whole(entry, _packed(measured))
    return measured


def statistics_folder() -> Path:
    """Where they are kept between builds."""
    return cache_folder() / "calibration"


def _measure(
    model: onnx.ModelProto, tensors: tuple[str, ...], source: CalibrationSource, progress: Progress
) -> Statistics:
    session = open_session(model, outputs=tensors)
    low = np.full(len(tensors), np.inf, np.float32)
    high = np.full(len(tensors), -np.inf, np.float32)
    counts = np.zeros((len(tensors), BINS), np.int64)
    passes = len(source.pictures) * 2
    for image in source.images(lambda done, total: progress(done, passes)):
        for index, values in enumerate(session.run(tensors, {"images": image})):
            low[index] = values.min(initial=low[index])
            high[index] = values.max(initial=high[index])
    empty = low > high  # of candidates that no picture had
    low[empty], high[empty] = 0, 0
    for name, bounds in zip(tensors, np.stack([low, high], 1), strict=True):
        if not np.isfinite(bounds).all():
            raise CalibrationError(f"tensor {name} of the network is not finite on the calibration pictures")
    for image in source.images(lambda done, total: progress(total + done, passes)):
        for index, values in enumerate(session.run(tensors, {"images": image})):
            counts[index] += _histogram(values, low[index], high[index])
    return Statistics(tensors, low, high, counts)


def _histogram(values: NDArray[np.float32], low: np.float32, high: np.float32) -> NDArray[np.int64]:
    per_unit = BINS / (float(high) - float(low)) if high > low else 0.0
    bins = ((values.ravel() - low) * np.float32(per_unit)).astype(np.int32)
    return np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)  # zeros where there are no values


def _key(model: onnx.ModelProto, tensors: tuple[str, ...], source: CalibrationSource) -> str:
    import onnxruntime as ort

    described = {
        "version": _VERSION,
        "bins": BINS,
        "onnxruntime": ort.__version__,
        "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        "tensors": tensors,
        "pictures": source.sha256,
        "input_wh": source.card.input_wh,
        "preprocess": source.card.preprocess.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _packed(statistics: Statistics) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        names=np.array(json.dumps(statistics.names)),
        low=statistics.low,
        high=statistics.high,
        counts=statistics.counts,
    )
    return packed.getvalue()


def _read(entry: Path) -> Statistics | None:
    try:
        with np.load(entry, allow_pickle=False) as packed:
            names = tuple(json.loads(str(packed["names"])))
            return Statistics(names, packed["low"], packed["high"], packed["counts"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # absent or damaged: measured anew
        return None
