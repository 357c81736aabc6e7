"""YOLO's folders: ``images/`` and, for each picture, a text file of the same name in ``labels/``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from detserve_client.errors import MissingExtra
from detserve_client.sources import PICTURE_SUFFIXES
from detserve_perf.datasets.base import AnnotatedPicture, Dataset, plain_boxes, require_pictures
from detserve_perf.errors import MeasurementError

_NAMES_FILE = "classes.txt"
_OUTSIDE = 0.01  # exporters round a box at the edge a little out of the picture
_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def yolo_dataset(folder: Path, images: Path | None, labels: Sequence[str]) -> Dataset:
    """Pair pictures with label files; a picture without one shows nothing.

    A line of a label file is ``class x_centre y_centre width height``, in fractions of the upright picture.
    Classes count the names of ``data.yaml`` (in the folder or above it), of a ``.names`` file or of
    ``classes.txt``, or, without any of them, ``labels``.

    Raises:
        MeasurementError: a label file without a picture or with a line that is none, or no picture at all.
    """
    images = images or folder / "images"
    pictures = sorted(p for p in images.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
    require_pictures(pictures, images)
    files = {path.relative_to(images).with_suffix(""): path for path in pictures}
    texts = {
        path.relative_to(folder / "labels").with_suffix(""): path
        for path in (folder / "labels").rglob("*.txt")
        if path.name != _NAMES_FILE
    }
    strays = sorted(texts[key] for key in texts.keys() - files.keys())
    if strays:
        raise MeasurementError(
            f"{len(strays)} of {len(texts)} label files have no picture in {images}, {strays[0]} for one; "
            "expected one of the same name, or another --images"
        )
    names, whose = _names(folder) or (tuple(labels), "the card")

    def read() -> Iterator[AnnotatedPicture]:
        for path in pictures:
            text = texts.get(path.relative_to(images).with_suffix(""))
            rows = _rows(text, len(names), whose) if text else []
            width, height = _upright_size_wh(path) if rows else (0, 0)
            boxes = [
                [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height] for _, x, y, w, h in rows
            ]
            yield plain_boxes(path, boxes, [int(row[0]) for row in rows])

    bare = len(files.keys() - texts.keys())
    notes = (f"{bare} of {len(pictures)} pictures have no label file: taken to show nothing",) * bool(bare)
    return Dataset(folder, "YOLO", names, len(pictures), read, notes)


def _rows(path: Path, classes: int, whose: str) -> list[list[float]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            row = [float(field) for field in fields]
        except ValueError:
            row = []
        if len(row) != 5 or not all(map(math.isfinite, row)):
            raise MeasurementError(
                f"{path}: line {number} is {line.strip()[:60]!r}; "
                "expected class, x centre, y centre, width and height"
            )
        if not (row[0].is_integer() and 0 <= row[0] < classes):
            raise MeasurementError(
                f"{path}: line {number} has the class {fields[0]}; "
                f"expected 0 to {classes - 1}, as {whose} names {classes}"
            )
        if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in row[1:]) or min(row[3:]) < 0:
            raise MeasurementError(
                f"{path}: line {number} has the box {' '.join(fields[1:])}; "
                "expected fractions of the picture, 0 to 1"
            )
        rows.append(row)
    return rows


def _names(folder: Path) -> tuple[tuple[str, ...], str] | None:
    """The class names and the name of the file that has them, or None."""
    for path in (folder / "data.yaml", folder.resolve().parent / "data.yaml"):
        if path.is_file():
            return _names_of_yaml(path), path.name
    lists = [*sorted(folder.glob("*.names")), folder / _NAMES_FILE, folder / "labels" / _NAMES_FILE]
    for path in lists:
        if path.is_file():
            names = tuple(line.strip() for line in _text(path).splitlines() if line.strip())
            if not names:
                raise MeasurementError(f"{path} is empty; expected one class name a line")
            return names, path.name
    return None


def _names_of_yaml(path: Path) -> tuple[str, ...]:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("pyyaml", "perf") from None
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise MeasurementError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise MeasurementError(f"{path} has no 'names'; expected a list, or a mapping from 0, 1, 2 and so on")
    return tuple(str(name) for name in names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementError(f"{path} cannot be read as text: {error}") from None


def _upright_size_wh(path: Path) -> tuple[int, int]:
    """Width and height in pixels after EXIF's turn, from the file's header alone."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", "perf") from None
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS
            width, height = picture.size
    except (OSError, Image.DecompressionBombError) as error:
        raise MeasurementError(f"{path} cannot be read as a picture: {error}") from None
    return (height, width) if turned else (width, height)
