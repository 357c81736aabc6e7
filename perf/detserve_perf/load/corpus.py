"""A folder of real pictures as perf_analyzer's ``--input-data``.

Random bytes are no JPEG, and one picture repeated flatters every cache on the way.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from pathlib import Path

from detserve_client.client import Client
from detserve_client.transports import transport_to
from detserve_core.contract import IMAGE
from detserve_core.endpoint import Endpoint
from detserve_core.errors import RequestRejected, SourceError
from detserve_core.pictures.folders import is_picture
from detserve_perf.errors import MeasurementError

FEW_PICTURES = 16
MAX_PICTURES = 128  # perf_analyzer keeps the whole corpus in memory


def read_pictures(folder: Path) -> list[bytes]:
    """The first :data:`MAX_PICTURES` distinct pictures of ``folder``, by name, still encoded.

    Raises :class:`MeasurementError` when the folder is absent or has no picture, or one cannot be read.
    """
    return list(named_pictures(folder))


def named_pictures(folder: Path) -> dict[bytes, Path]:
    """As :func:`read_pictures`, with the file of each."""
    if not folder.is_dir():
        raise MeasurementError(
            f"{folder} is not a folder; --pictures takes a folder of JPEG, PNG, WebP or BMP pictures"
        )
    pictures: dict[bytes, Path] = {}
    for path in filter(is_picture, sorted(folder.iterdir())):
        try:
            pictures.setdefault(path.read_bytes(), path)
        except OSError as error:
            raise MeasurementError(f"{path} cannot be read: {error.strerror}") from None
        if len(pictures) == MAX_PICTURES:
            break
    if not pictures:
        raise MeasurementError(
            f"{folder} has no JPEG, PNG, WebP or BMP picture; --pictures needs at least one"
        )
    return pictures


def check_pictures(pictures: Mapping[bytes, Path], endpoint: Endpoint, model: str) -> None:
    """Send each picture once: load generators do not say which file it was that a server refuses.

    Raises :class:`MeasurementError` with the files that are refused. Raises an
    :class:`~detserve_core.errors.InferenceError` when the server does not answer.
    """
    with Client(str(endpoint), model, transport=transport_to(endpoint)) as client:
        refused = []
        for outcome, path in zip(client.detect_stream(pictures), pictures.values(), strict=True):
            if isinstance(outcome.error, (RequestRejected, SourceError)):
                refused.append(f"{path}: {outcome.error}")
            elif outcome.error is not None:
                raise outcome.error
    if refused:
        raise MeasurementError(
            f"{len(refused)} of {len(pictures)} pictures cannot be measured with; take them out, "
            f"the first is {refused[0]}"
        )


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
