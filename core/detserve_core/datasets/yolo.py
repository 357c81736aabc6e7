"""YOLO's pictures with a text file of the same name for each: in ``labels/``, or beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from detserve_core.datasets.dataset import (
    AnnotatedPicture,
    Dataset,
    plain_boxes,
    require_pictures,
    shown,
    upright_size_wh,
)
from detserve_core.datasets.errors import DatasetError
from detserve_core.datasets.yolo_names import NAMES_FILE, SPLITS, Description, describe, read_text
from detserve_core.pictures.folders import files_below, is_picture

_OUTSIDE = 0.01  # exporters round a box at the edge a little out of the picture
_BOX = 5  # class, x centre, y centre, width, height
_LEAST_OUTLINE = 7  # class and three corners
LabelOf = Callable[[Path], Path]


def is_yaml(path: Path) -> bool:
    """Whether the name is that of a ``data.yaml``."""
    return path.suffix.lower() in (".yaml", ".yml")


def yolo_dataset(path: Path, images: Path | None, labels: Sequence[str]) -> Dataset:
    """Pair pictures with label files; a picture without one shows nothing.

    A line of a label file is ``class x_centre y_centre width height`` in fractions of the upright picture, or
    ``class`` and the corners of an outline, whose box counts. A ``data.yaml``, or that of the folder, says
    where its ``val`` pictures are, or its ``test`` or ``train`` ones; labels are in ``labels`` where the
    pictures are in ``images``, else beside them. Classes count the names of ``data.yaml`` (in the folder or
    above it), of a ``.names`` file or of ``classes.txt``, or, without any of them, ``labels``.

    Raises:
        DatasetError: a label file without a picture or with a line that is not one, or no picture at all.
    """
    description = describe(path, labels)
    if description.file and (is_yaml(path) or _says_which(description, path, images)):
        pictures, label_of, where = _of_yaml(description, images)
    else:
        pictures, label_of, where = _of_folder(path, images)
    require_pictures(pictures, where)
    texts = {picture: text for picture in pictures if (text := label_of(picture)).is_file()}

    def read() -> Iterator[AnnotatedPicture]:
        for picture in pictures:
            rows = _rows(texts[picture], description) if picture in texts else []
            width, height = upright_size_wh(picture) if rows else (0, 0)
            boxes = [
                [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height] for _, x, y, w, h in rows
            ]
            yield plain_boxes(picture, boxes, [int(row[0]) for row in rows])

    bare = len(pictures) - len(texts)
    notes = (f"{bare} of {len(pictures)} pictures have no label file: taken to show nothing",) * bool(bare)
    files = (*([description.file] if description.file else []), *texts.values())
    return Dataset(path, "YOLO", description.names, len(pictures), read, files, notes)


def _says_which(description: Description, folder: Path, images: Path | None) -> bool:
    """Whether the ``data.yaml`` of a folder decides, not what lies in ``images/`` and ``labels/``."""
    if not (folder / "labels").is_dir():
        return True
    if description.file is None or description.file.resolve().parent != folder.resolve():
        return False
    if images is None:
        named = bool(description.content.keys() & set(SPLITS))
        return named and (description.has_sources() or any((folder / "images" / s).is_dir() for s in SPLITS))
    return images.resolve().is_relative_to(folder.resolve()) and bool(description.folders())


def _require_one_split(images: Path) -> None:
    splits = [name for name in SPLITS if (images / name).is_dir()]
    if len(splits) > 1:
        raise DatasetError(
            f"{images} holds {' and '.join(splits)}, which are not scored together; choose one: "
            f"--images {images / splits[0]}"
        )


def _of_folder(folder: Path, images: Path | None) -> tuple[list[Path], LabelOf, Path]:
    labels = folder / "labels" if (folder / "labels").is_dir() else folder
    if images is None:
        images = folder if labels == folder and _pictures(folder) else folder / "images"
        if labels == folder and not images.is_dir():
            images = folder.resolve().parent / "images"  # labels in a folder of another name beside it
        _require_one_split(images)
    elif images.resolve().is_relative_to((folder / "images").resolve()):
        part = labels / images.resolve().relative_to((folder / "images").resolve())
        labels = part if part.is_dir() else labels
    pictures = _pictures(images)
    known = {path.relative_to(images).with_suffix(".txt") for path in pictures}
    texts = [path for path in files_below(labels) if _is_label(path)]
    strays = sorted(path for path in texts if path.relative_to(labels) not in known)
    if strays and pictures and labels != images:
        raise DatasetError(
            f"{len(strays)} of {len(texts)} label files have no picture in {images}, {strays[0]} for one; "
            "expected one of the same name, or another --images"
        )
    return pictures, lambda path: labels / path.relative_to(images).with_suffix(".txt"), images


def _of_yaml(description: Description, images: Path | None) -> tuple[list[Path], LabelOf, Path]:
    if images is None:
        sources = description.sources()
        listed = [_pictures(source) if source.is_dir() else _listed(source) for source in sources]
        return [picture for pictures in listed for picture in pictures], _label_beside, sources[0]
    own = description.folders()  # where the labels may be, if not beside the pictures elsewhere

    def label_of(picture: Path) -> Path:
        alike = [_label_beside(folder / picture.relative_to(images)) for folder in own]
        return next((label for label in alike if label.is_file()), _label_beside(picture))

    return _pictures(images), label_of, images


def _pictures(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if is_picture(path)]


def _is_label(path: Path) -> bool:
    return path.suffix == ".txt" and path.name != NAMES_FILE and not path.name.startswith("._")


def _listed(file: Path) -> list[Path]:
    """The pictures that a text file names, a line each, from the file's folder on."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    return [file.parent / line.replace("\\", "/") for line in lines if line]


def _label_beside(picture: Path) -> Path:
    """In ``labels`` where the last folder called ``images`` is, else beside the picture."""
    parts = list(picture.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _rows(path: Path, description: Description) -> list[list[float]]:
    """Class, x centre, y centre, width and height of each line."""
    rows = []
    classes = len(description.names)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        row = _numbers(fields)
        is_box = len(row) in (_BOX, description.pose_columns)
        if not is_box and not (len(row) >= _LEAST_OUTLINE and len(row) % 2):
            raise DatasetError(
                f"{path}: line {number} is {shown(line.strip())}; expected class, x centre, y centre, width "
                "and height, or class and the corners of an outline"
            )
        if not (row[0].is_integer() and 0 <= row[0] < classes):
            raise DatasetError(
                f"{path}: line {number} has the class {shown(fields[0])}; "
                f"expected 0 to {classes - 1}, as {description.whose} names {classes}"
            )
        values = row[1:_BOX] if is_box else row[1:]
        if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in values) or (
            is_box and min(values[2:]) < 0
        ):
            raise DatasetError(
                f"{path}: line {number} has the box {shown(' '.join(fields[1:]))}; "
                "expected fractions of the picture, 0 to 1"
            )
        rows.append([row[0], *(values if is_box else _around(values))])
    return rows


def _numbers(fields: Iterable[str]) -> list[float]:
    """Finite numbers, or none at all."""
    try:
        row = [float(field) for field in fields]
    except ValueError:
        return []
    return row if all(map(math.isfinite, row)) else []


def _around(corners: Sequence[float]) -> list[float]:
    """x centre, y centre, width and height of the box around x, y, x, y and so on."""
    x, y = corners[::2], corners[1::2]
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
