"""A folder of real pictures as perf_analyzer's ``--input-data``.

Random bytes are no JPEG, and one picture repeated flatters every cache on the way.
"""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

from detserve_core.contract import IMAGE
from detserve_perf.errors import MeasurementError

FEW_PICTURES = 16
MAX_PICTURES = 128  # perf_analyzer keeps the whole corpus in memory
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def read_pictures(folder: Path) -> list[bytes]:
    """The first :data:`MAX_PICTURES` distinct pictures of ``folder``, by name, still encoded.

    Raises :class:`MeasurementError` when the folder is absent or has no picture.
    """
    if not folder.is_dir():
        raise MeasurementError(
            f"{folder} is not a folder; --pictures takes a folder of JPEG, PNG, WebP or BMP pictures"
        )
    pictures: dict[bytes, None] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            pictures[path.read_bytes()] = None
        if len(pictures) == MAX_PICTURES:
            break
    if not pictures:
        raise MeasurementError(
            f"{folder} has no JPEG, PNG, WebP or BMP picture; --pictures needs at least one"
        )
    return list(pictures)


def corpus_note(count: int) -> str | None:
    """What to say about a corpus of ``count`` distinct pictures, or None when it is large enough."""
    if count >= FEW_PICTURES:
        return None
    return f"only {count} distinct pictures: fewer than {FEW_PICTURES} flatter the caches"


def input_data(pictures: list[bytes]) -> str:
    """The JSON for ``--input-data``: one entry per picture.

    A BYTES value in ``b64`` carries its own length in front, 4 bytes little-endian.
    """
    entries = [
        {IMAGE: {"content": {"b64": base64.b64encode(struct.pack("<I", len(p)) + p).decode()}, "shape": [1]}}
        for p in pictures
    ]
    return json.dumps({"data": entries})
