"""Pascal VOC's folders: ``Annotations/*.xml``, with the pictures in ``JPEGImages/``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree  # expat itself bounds the expansion of entities

from detserve_core.datasets.dataset import (
    MAX_SIDE_PX,
    AnnotatedPicture,
    Dataset,
    is_file,
    named_picture,
    plain_boxes,
    require_pictures,
    shown,
)
from detserve_core.datasets.errors import DatasetError
from detserve_core.pictures.folders import PICTURE_SUFFIXES, files_below

_FOLDERS = ("JPEGImages", "images", "Annotations", ".")
_SUFFIXES = (*PICTURE_SUFFIXES, *(suffix.upper() for suffix in PICTURE_SUFFIXES))
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


def voc_dataset(folder: Path, images: Path | None) -> Dataset:
    """Read which classes there are; boxes are read anew whenever they are asked for.

    The xml files are in ``Annotations/`` or in ``folder`` itself. A picture is the file that ``filename``
    names, or one of the xml's own name. VOC counts pixels from 1 and includes the last: 1 to 10 is a box from
    0 to 10. A ``difficult`` object counts neither as found nor as missed.

    Raises:
        DatasetError: a file that is not a VOC annotation, no such file, or a picture that is absent.
    """
    images = images or next(path for name in _FOLDERS if (path := folder / name).is_dir())
    annotations = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = [path for path in files_below(annotations) if path.suffix == ".xml" and path.name[:2] != "._"]
    if not files:
        raise DatasetError(f"the dataset is empty: {annotations} has no xml file")
    paths: list[Path] = []
    found: set[str] = set()
    for file in files:
        root = _annotation(file)
        paths.append(_picture(file, root, images / file.relative_to(annotations).parent, images))
        found.update(_required(entry, "name", file) for entry in root.findall("object"))
    require_pictures(paths, images)
    labels = tuple(sorted(found))
    index = {label: position for position, label in enumerate(labels)}

    def read() -> Iterator[AnnotatedPicture]:
        for file, path in zip(files, paths, strict=True):
            root = _annotation(file)
            objects = root.findall("object")
            yield plain_boxes(
                path,
                [_box_xywh(entry, file) for entry in objects],
                [index[_required(entry, "name", file)] for entry in objects],
                [_is_difficult(entry, file) for entry in objects],
                _said_wh(root),
            )

    return Dataset(folder, "Pascal VOC", labels, len(files), read, tuple(files))


def _annotation(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: a strange encoding
        raise DatasetError(f"{path} is not XML: {error}; expected Pascal VOC's <annotation>") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    if root.tag != "annotation":
        raise DatasetError(f"{path} begins with <{shown(root.tag)}>; expected Pascal VOC's <annotation>")
    return root


def _picture(file: Path, root: ElementTree.Element, near: Path, images: Path) -> Path:
    """In the folder of ``images`` that the xml's is, or in that itself."""
    name = (root.findtext("filename") or "").strip() or file.stem
    named = [named_picture(folder, name) for folder in (near, images)]
    alike = [folder / f"{file.stem}{suffix}" for folder in (near, images) for suffix in _SUFFIXES]
    return next((path for path in (*named, *alike) if is_file(path)), named[-1])


def _required(entry: ElementTree.Element, tag: str, file: Path) -> str:
    text = (entry.findtext(tag) or "").strip()
    if not text:
        raise DatasetError(f"{file}: an <{entry.tag}> has no <{tag}>; expected Pascal VOC's format")
    return text


def _is_difficult(entry: ElementTree.Element, file: Path) -> bool:
    text = (entry.findtext("difficult") or "").strip()
    if text.lower() not in _FLAGS:
        raise DatasetError(f"{file}: an <object> has the <difficult> {shown(text)}; expected 0 or 1")
    return _FLAGS[text.lower()]


def _box_xywh(entry: ElementTree.Element, file: Path) -> list[float]:
    box = entry.find("bndbox")
    if box is None:
        raise DatasetError(f"{file}: an <object> has no <bndbox>; expected Pascal VOC's format")
    texts = [_required(box, tag, file) for tag in _EDGES]
    left, top, right, bottom = edges = [_number(text) for text in texts]
    if not all(abs(edge) <= MAX_SIDE_PX for edge in edges) or right < left or bottom < top:
        said = ", ".join(f"{tag} {shown(text)}" for tag, text in zip(_EDGES, texts, strict=True))
        raise DatasetError(f"{file}: a box has {said}; expected pixels, the least before the greatest")
    return [left - 1, top - 1, right - left + 1, bottom - top + 1]


def _said_wh(root: ElementTree.Element) -> tuple[int, int] | None:
    """Some tools write 0."""
    width, height = (_number(root.findtext(f"size/{side}") or "") for side in ("width", "height"))
    both = all(0 < side <= MAX_SIDE_PX for side in (width, height))
    return (int(width), int(height)) if both else None


def _number(text: str) -> float:
    """NaN where it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan
