"""Pascal VOC's folders: ``Annotations/*.xml``, with the pictures in ``JPEGImages/``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree  # expat itself bounds the expansion of entities

from detserve_client.sources import PICTURE_SUFFIXES
from detserve_perf.datasets.base import AnnotatedPicture, Dataset, plain_boxes, require_pictures
from detserve_perf.errors import MeasurementError

_FOLDERS = ("JPEGImages", "images", "Annotations")
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def voc_dataset(folder: Path, images: Path | None) -> Dataset:
    """Read which classes there are; boxes are read anew whenever they are asked for.

    A picture is the file that ``filename`` names, or one of the xml's own name. VOC counts pixels from 1 and
    includes the last: 1 to 10 is a box from 0 to 10. A ``difficult`` object counts neither as found nor as
    missed.

    Raises:
        MeasurementError: a file that is no VOC annotation, no such file, or a picture that is absent.
    """
    images = images or next(path for name in _FOLDERS if (path := folder / name).is_dir())
    files = sorted((folder / "Annotations").glob("*.xml"))
    if not files:
        raise MeasurementError(f"the dataset is empty: {folder / 'Annotations'} has no xml file")
    paths: list[Path] = []
    found: set[str] = set()
    for file in files:
        root = _annotation(file)
        paths.append(_picture(file, root, images))
        found.update(_required(entry, "name", file) for entry in root.findall("object"))
    require_pictures(paths, images)
    labels = tuple(sorted(found))
    index = {label: position for position, label in enumerate(labels)}

    def read() -> Iterator[AnnotatedPicture]:
        for file, path in zip(files, paths, strict=True):
            objects = _annotation(file).findall("object")
            yield plain_boxes(
                path,
                [_box_xywh(entry, file) for entry in objects],
                [index[_required(entry, "name", file)] for entry in objects],
                [(entry.findtext("difficult") or "").strip() not in ("", "0") for entry in objects],
            )

    return Dataset(folder, "Pascal VOC", labels, len(files), read)


def _annotation(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: a strange encoding
        raise MeasurementError(f"{path} is no XML: {error}") from None
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read: {error.strerror}") from None
    if root.tag != "annotation":
        raise MeasurementError(f"{path} begins with <{root.tag}>; expected Pascal VOC's <annotation>")
    return root


def _picture(file: Path, root: ElementTree.Element, images: Path) -> Path:
    named = images / (root.findtext("filename") or file.stem).strip()
    if named.is_file():
        return named
    alike = (images / f"{file.stem}{suffix}" for suffix in PICTURE_SUFFIXES)
    return next((path for path in alike if path.is_file()), named)


def _required(entry: ElementTree.Element, tag: str, file: Path) -> str:
    text = (entry.findtext(tag) or "").strip()
    if not text:
        raise MeasurementError(f"{file}: an <{entry.tag}> has no <{tag}>; expected Pascal VOC's format")
    return text


def _box_xywh(entry: ElementTree.Element, file: Path) -> list[float]:
    box = entry.find("bndbox")
    if box is None:
        raise MeasurementError(f"{file}: an <object> has no <bndbox>; expected Pascal VOC's format")
    texts = [_required(box, tag, file) for tag in _EDGES]
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        left = top = right = bottom = math.nan
    if not all(map(math.isfinite, (left, top, right, bottom))) or right < left or bottom < top:
        edges = ", ".join(f"{tag} {text}" for tag, text in zip(_EDGES, texts, strict=True))
        raise MeasurementError(f"{file}: a box has {edges}; expected pixels, the least before the greatest")
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]
