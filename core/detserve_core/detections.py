"""One type for what a detector found in one picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detserve_core.errors import MissingExtra

if TYPE_CHECKING:
    import supervision


class Detection(NamedTuple):
    """One row: ``box_px`` is x1, y1, x2, y2 in pixels of the upright picture."""

    box_px: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one picture. Immutable; the arrays are read-only.

    Attributes:
        boxes: float32 ``(n, 4)``, x1, y1, x2, y2 (x1 <= x2, y1 <= y2) in pixels of the upright original
            picture.
        scores: float32 ``(n,)``, 0 to 1.
        classes: int32 ``(n,)``, indices into ``labels``.
        labels: the names of all classes of the detector, not of the rows; see :meth:`label_of`.

    Raises:
        ValueError: an array has another dtype or shape, or holds a value that no detection can have.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the arrays and make them read-only."""
        object.__setattr__(self, "labels", tuple(self.labels))
        _require(self.boxes, "boxes", np.float32, 2)
        rows = len(self.boxes)
        if self.boxes.shape[1] != 4:
            raise ValueError(f"boxes has shape {self.boxes.shape}; expected (n, 4)")
        for name, dtype in (("scores", np.float32), ("classes", np.int32)):
            array = getattr(self, name)
            _require(array, name, dtype, 1)
            if len(array) != rows:
                raise ValueError(f"{name} has {len(array)} rows and boxes has {rows}; expected as many")
        self._require_values()
        for name in ("boxes", "scores", "classes"):
            array = np.array(getattr(self, name))
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def _require_values(self) -> None:
        if not np.isfinite(self.boxes).all():
            raise ValueError("boxes holds a value that is not finite")
        if (self.boxes[:, 2:] < self.boxes[:, :2]).any():
            raise ValueError("boxes holds a row with x2 < x1 or y2 < y1; expected x1, y1, x2, y2")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError("scores holds a value outside 0 to 1")
        if len(self.classes) and not (self.classes.min() >= 0 and self.classes.max() < len(self.labels)):
            raise ValueError(
                f"classes holds {self.classes.min()} to {self.classes.max()}; "
                f"expected 0 to {len(self.labels) - 1}, one per label"
            )

    @classmethod
    def empty(cls, labels: Sequence[str]) -> Detections:
        """No detection of a detector with these class names."""
        return cls(
            boxes=np.empty((0, 4), np.float32),
            scores=np.empty(0, np.float32),
            classes=np.empty(0, np.int32),
            labels=tuple(labels),
        )

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        """Go through the rows."""
        for box, score, class_id in zip(
            self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), strict=True
        ):
            yield Detection(tuple(box), score, class_id, self.labels[class_id])

    def __getitem__(self, mask: NDArray[np.bool_]) -> Detections:
        """Keep the rows where the boolean ``mask`` ``(n,)`` is true."""
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (len(self),):
            raise ValueError(f"the mask is {mask.dtype} {mask.shape}; expected bool ({len(self)},)")
        return Detections(self.boxes[mask], self.scores[mask], self.classes[mask], self.labels)

    def __eq__(self, other: object) -> bool:
        """Whether all arrays and labels are equal."""
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            self.labels == other.labels
            and np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.classes, other.classes)
        )

    __hash__ = None  # type: ignore[assignment]

    def above(self, score: float) -> Detections:
        """Keep the rows with at least this score."""
        return self[self.scores >= score]

    def of(self, *labels: str) -> Detections:
        """Keep the rows of these classes, by name.

        Raises:
            ValueError: the detector has no class of that name.
        """
        for label in labels:
            if label not in self.labels:
                raise ValueError(f"the detector has no class {label!r}; it has {', '.join(self.labels)}")
        wanted = [index for index, label in enumerate(self.labels) if label in labels]
        return self[np.isin(self.classes, wanted)]

    def label_of(self, row: int) -> str:
        """Name the class of one row."""
        return self.labels[int(self.classes[row])]

    def to_dicts(self) -> list[dict[str, Any]]:
        """JSON-ready rows: ``label``, ``class_id``, ``score``, ``box_px`` (x1, y1, x2, y2)."""
        return [
            {
                "label": self.label_of(row),
                "class_id": int(self.classes[row]),
                "score": _shortest(self.scores[row]),
                "box_px": [_shortest(value) for value in self.boxes[row]],
            }
            for row in range(len(self))
        ]

    def to_coco(self, image_id: int, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file: image_id, category_id, bbox (x, y, width, height), score.

        Args:
            image_id: the picture's id in the annotation file.
            category_ids: category id of each label; rows of other labels are left out. Without it the
                category id is the class index.
        """
        rows = []
        for row, (x1, y1, x2, y2) in enumerate(self.boxes.astype(np.float64).tolist()):
            class_id = int(self.classes[row])
            category = class_id if category_ids is None else category_ids.get(self.labels[class_id])
            if category is not None:
                bbox = [round(value, 4) for value in (x1, y1, x2 - x1, y2 - y1)]
                score = _shortest(self.scores[row])
                rows.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": score})
        return rows

    def to_supervision(self) -> supervision.Detections:
        """Convert to ``supervision.Detections``; the labels are in ``data["class_name"]``.

        Raises:
            MissingExtra: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise MissingExtra("supervision", "draw") from None
        names = np.array([self.label_of(row) for row in range(len(self))], dtype=np.str_)
        return supervision.Detections(
            xyxy=np.array(self.boxes),
            confidence=np.array(self.scores),
            class_id=self.classes.astype(np.int64),
            data={"class_name": names},
        )


def _require(array: object, name: str, dtype: type[np.generic], ndim: int) -> None:
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is a {type(array).__name__}; expected a numpy array")  # noqa: TRY004
    if array.dtype != dtype or array.ndim != ndim:
        shape = "(n, 4)" if ndim == 2 else "(n,)"
        raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")


def _shortest(value: np.float32) -> float:
    """The shortest decimal number that is this float32: 0.86, not 0.8600000143051147."""
    return float(str(value))
