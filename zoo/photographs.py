"""Score a detector of codes on real photographs: `python -m zoo.photographs PHOTOGRAPHS [--model FOLDER]`.

The photographs carry no boxes. A picture counts when zxing-cpp decodes it; it is hit when a detection of the
right class contains the centre of what was decoded. The photographs are for this measurement only: nothing is
trained on them and nothing of them is stored here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import zxingcpp
from numpy.typing import NDArray

from zoo.reference_detector import Detections, ReferenceDetector
from zoo.scenes.symbols import LABELS

_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"}
_NEGATIVES = "falsepositives"
_COLOURS = ((255, 0, 0), (0, 200, 0), (0, 0, 255), (255, 160, 0), (255, 0, 255))

# Words in zxing-cpp's format names that tell the class; every other decodable format is a linear one.
_WORDS = (("qr", "qr"), ("datamatrix", "datamatrix"), ("aztec", "aztec"), ("pdf417", "pdf417"))
_OTHER = "maxicode"


@dataclass
class Row:
    """One folder of photographs, counted."""

    folder: str
    pictures: int = 0
    decodable: int = 0
    hits: int = 0
    boxes: int = 0


def label_of(form: zxingcpp.BarcodeFormat) -> str | None:
    """Class of a decoded format; None for the codes outside the five classes."""
    name = form.name.lower()
    for word, label in _WORDS:
        if word in name:
            return label
    return None if _OTHER in name else "linear"


def decode(picture: NDArray[np.uint8]) -> list[tuple[str, NDArray[np.float64]]]:
    """Class and centre (x, y in pixels) of every code that zxing-cpp reads in an RGB picture."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    codes = []
    for code in zxingcpp.read_barcodes(grey, try_rotate=True, try_downscale=True, try_invert=True):
        place = code.position
        corners = (place.top_left, place.top_right, place.bottom_right, place.bottom_left)
        label = label_of(code.format)
        if label:
            codes.append((label, np.mean([(corner.x, corner.y) for corner in corners], axis=0)))
    return codes


def is_hit(found: Detections, label: str, centre: NDArray[np.float64]) -> bool:
    """Whether a detection of the class contains the point."""
    boxes = found.boxes_px[found.classes == LABELS.index(label)]
    inside = (boxes[:, :2] <= centre).all(1) & (boxes[:, 2:] >= centre).all(1)
    return bool(inside.any())


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a picture as uint8 [h, w, 3] RGB."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path} is not a picture OpenCV reads")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _draw(picture: NDArray[np.uint8], found: Detections, path: Path) -> None:
    """Write the picture with its boxes, enlarged when small."""
    factor = max(1.0, 480 / max(picture.shape[:2]))
    drawn = cv2.resize(picture, None, fx=factor, fy=factor)[..., ::-1].copy()
    for box, score, label in zip(found.boxes_px * factor, found.scores, found.classes, strict=True):
        x1, y1, x2, y2 = (int(v) for v in box)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), _COLOURS[label][::-1], 2)
        text = f"{LABELS[label]} {score:.2f}"
        cv2.putText(
            drawn, text, (max(x1, 2), max(y1 + 14, 14)), 0, 0.5, _COLOURS[label][::-1], 1, cv2.LINE_AA
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), drawn)


def score_folder(folder: Path, detector: ReferenceDetector, drawings: Path | None = None) -> Row:
    """Count one folder; pictures that are missed (or carry a false box) are drawn into `drawings`."""
    row = Row(folder.name)
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES):
        picture = read_rgb(path)
        codes = decode(picture)
        found = detector(picture)
        row.pictures += 1
        row.boxes += len(found.scores)
        if _NEGATIVES in folder.name:
            failed = len(found.scores) > 0
        else:
            # A picture is hit when every code read in it is.
            hit = bool(codes) and all(is_hit(found, label, centre) for label, centre in codes)
            row.decodable += bool(codes)
            row.hits += hit
            failed = bool(codes) and not hit
        if failed and drawings:
            _draw(picture, detector(picture, 0.15), drawings / folder.name / f"{path.stem}.png")
    return row


def as_markdown(rows: list[Row]) -> str:
    """The table, positives first, then their sum, then the false boxes."""
    lines = ["| folder | pictures | decodable | hits | share |", "|---|---:|---:|---:|---:|"]
    positives = [row for row in rows if _NEGATIVES not in row.folder]
    total = Row(
        "all", *(sum(getattr(row, name) for row in positives) for name in ("pictures", "decodable", "hits"))
    )
    for row in [*positives, total]:
        share = f"{row.hits / row.decodable:.1%}" if row.decodable else "-"
        lines.append(f"| {row.folder} | {row.pictures} | {row.decodable} | {row.hits} | {share} |")
    for row in rows:
        if _NEGATIVES in row.folder:
            lines.append(f"\nFalse boxes on the {row.pictures} pictures of {row.folder}: {row.boxes}")
    return "\n".join(lines)


def main() -> None:
    """Run the measurement and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="folder of folders of photographs")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "codes_yolo")
    parser.add_argument("--drawings", type=Path, help="where to draw the failures")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    detector = ReferenceDetector.from_folder(options.model)
    folders = sorted(p for p in options.photographs.iterdir() if p.is_dir())
    table = as_markdown([score_folder(folder, detector, options.drawings) for folder in folders])
    print(table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
