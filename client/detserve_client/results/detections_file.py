"""Detections read back from the JSON that ``detserve detect --json`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from detserve_core.detections import Detections
from detserve_core.errors import SourceError
from detserve_core.text import readable

_Number = Annotated[float, Field(allow_inf_nan=False, gt=-1e9, lt=1e9)]
_MOST_CLASSES = 65_536


class _Row(BaseModel):
    label: str
    class_id: int = Field(ge=0, lt=_MOST_CLASSES)
    score: float = Field(ge=0, le=1)
    box_px: tuple[_Number, _Number, _Number, _Number]

    @field_validator("box_px")
    @classmethod
    def _corners(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if box[0] > box[2] or box[1] > box[3]:
            raise ValueError("expected x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
        return box


class _Picture(BaseModel):
    source: str
    detections: list[_Row] | None = None
    error: str | None = None


_ENTRIES = TypeAdapter(list[_Picture] | list[_Row])


def detections_of(path: Path, picture: Path) -> Detections:
    """The detections of one picture in a JSON file.

    The file is a list of pictures as ``--json`` writes it, or the ``detections`` of one of them alone. A
    picture is found by its path, else by its name, else it is the only one.

    Raises:
        SourceError: the file cannot be read, is none of these, or has no detections of this picture.
    """
    try:
        entries = _ENTRIES.validate_json(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise SourceError(
            f"{path} is not a list of detections as detserve detect --json writes it: {_first(error)}"
        ) from None
    pictures = [entry for entry in entries if isinstance(entry, _Picture)]
    if not pictures:
        return _detections([entry for entry in entries if isinstance(entry, _Row)], path)
    entry = _entry_of(pictures, picture, path)
    if entry.detections is None:
        raise SourceError(
            f"{path} has no detections of {picture}: {entry.error or 'neither is there an error'}"
        )
    return _detections(entry.detections, path)


def _entry_of(pictures: list[_Picture], picture: Path, path: Path) -> _Picture:
    named = Path(readable(str(picture)))
    same_path = [entry for entry in pictures if Path(entry.source).absolute() == named.absolute()]
    same_name = [entry for entry in pictures if Path(entry.source).name == named.name]
    for found in (same_path, same_name, pictures):
        if len(found) == 1:
            return found[0]
    how_many = f"{len(same_path or same_name) or 'none'} of its {len(pictures)} pictures"
    raise SourceError(f"{path} does not say which detections are of {picture}: {how_many} has that name")


def _detections(rows: list[_Row], path: Path) -> Detections:
    names: dict[int, str] = {}
    for row in rows:
        if names.setdefault(row.class_id, row.label) != row.label:
            raise SourceError(
                f"{path} calls class {row.class_id} both {names[row.class_id]!r} and {row.label!r}"
            )
    return Detections(
        boxes=np.array([row.box_px for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row.score for row in rows], np.float32),
        classes=np.array([row.class_id for row in rows], np.int32),
        names=tuple(names.get(index, "") for index in range(max(names, default=-1) + 1)),
    )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
