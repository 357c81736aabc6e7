"""One type for what a detector found in one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from detserve_core.errors import MissingExtra
from detserve_core.text import name_key

if TYPE_CHECKING:
    from pathlib import Path

    import supervision
    from PIL.Image import Image

    from detserve_core.pictures.drawing import Drawing

Rows: TypeAlias = "slice | Sequence[int] | Sequence[bool] | NDArray[np.bool_] | NDArray[np.integer[Any]]"
"""Which rows: a slice, row numbers (negative ones count from the end), or a boolean for each row."""


class Detection(NamedTuple):
    """One row: ``box_px`` is x1, y1, x2, y2 in pixels of the upright picture."""

    box_px: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str
    track_id: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What a detector found in one picture, best first. Immutable; the arrays are read-only.

    ``found[0]`` is one :class:`Detection`; a slice, a list of row numbers or a boolean mask gives the rows as
    Detections. ``xyxy``, ``confidence`` and ``class_id`` are ``boxes``, ``scores`` and ``classes`` as
    supervision calls them.

    Attributes:
        boxes: float32 ``(n, 4)``, x1, y1, x2, y2 (x1 <= x2, y1 <= y2) in pixels of the upright original
            picture.
        scores: float32 ``(n,)``, 0 to 1.
        classes: int32 ``(n,)``, indices into ``names``.
        names: the names of all classes of the detector; :attr:`labels` has one for each row.
        track_ids: of a tracked video, an id for each row, and None for a row in no track; else None.

    Raises:
        ValueError: an array has another dtype or shape, or holds a value that no detection can have.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int32]
    names: tuple[str, ...]
    track_ids: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        """Check the arrays and make them read-only."""
        object.__setattr__(self, "names", tuple(self.names))
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
        if self.track_ids is not None:
            object.__setattr__(self, "track_ids", tuple(self.track_ids))
            if len(self.track_ids) != rows:
                raise ValueError(
                    f"track_ids has {len(self.track_ids)} rows and boxes has {rows}; expected as many"
                )
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
        if len(self.classes) and not (self.classes.min() >= 0 and self.classes.max() < len(self.names)):
            raise ValueError(
                f"classes holds {self.classes.min()} to {self.classes.max()}; "
                f"expected 0 to {len(self.names) - 1}, one per name"
            )

    @classmethod
    def empty(cls, names: Sequence[str]) -> Detections:
        """No detection of a detector with these class names."""
        return cls(
            boxes=np.empty((0, 4), np.float32),
            scores=np.empty(0, np.float32),
            classes=np.empty(0, np.int32),
            names=tuple(names),
        )

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        """Go through the rows."""
        ids = self.track_ids or (None,) * len(self)
        for box, score, class_id, track_id in zip(
            self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), ids, strict=True
        ):
            yield Detection(tuple(box), score, class_id, self.names[class_id], track_id)

    @overload
    def __getitem__(self, rows: Rows) -> Detections: ...
    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Detection: ...
    def __getitem__(self, rows: Rows | int | np.integer[Any]) -> Detection | Detections:
        """One row by its number; several by a slice, a list of numbers or a boolean mask ``(n,)``.

        Raises:
            IndexError: there is no such row.
            ValueError: the mask has another length, or the array is neither of int nor of bool.
        """
        if isinstance(rows, slice):
            return self._taken(np.arange(len(self))[rows])
        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            return next(iter(self._taken(self._numbers(np.array([rows])))))
        return self._taken(self._numbers(np.asarray(rows)))

    def _numbers(self, rows: NDArray[Any]) -> NDArray[np.intp]:
        """Row numbers ``(m,)``, checked, from row numbers or a mask."""
        if rows.dtype == np.bool_ and rows.shape == (len(self),):
            return np.flatnonzero(rows)
        if rows.size == 0 and rows.ndim == 1:
            return np.empty(0, np.intp)
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(
                f"the rows are {rows.dtype} {rows.shape}; expected a number, a slice, a list of numbers or a "
                f"mask, bool ({len(self)},)"
            )
        for row in rows[(rows < -len(self)) | (rows >= len(self))].tolist():
            raise IndexError(f"there is no row {row}; there are {len(self)} detections")
        return rows.astype(np.intp)

    def _taken(self, rows: NDArray[np.intp]) -> Detections:
        ids = None if self.track_ids is None else tuple(self.track_ids[row] for row in rows)
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows], self.names, ids)

    def __eq__(self, other: object) -> bool:
        """Whether all arrays, names and track ids are equal."""
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            self.names == other.names
            and self.track_ids == other.track_ids
            and np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.classes, other.classes)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """How many of each class: ``<Detections 3: 2 person, 1 dog>``."""
        counts = ", ".join(f"{count} {label}" for label, count in Counter(self.labels).most_common())
        return f"<Detections {len(self)}{': ' if counts else ''}{counts}>"

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """:attr:`boxes`, float32 ``(n, 4)``."""
        return self.boxes

    @property
    def confidence(self) -> NDArray[np.float32]:
        """:attr:`scores`, float32 ``(n,)``."""
        return self.scores

    @property
    def class_id(self) -> NDArray[np.int32]:
        """:attr:`classes`, int32 ``(n,)``."""
        return self.classes

    @property
    def labels(self) -> NDArray[np.str_]:
        """The class name of each row, str ``(n,)``: ``found[found.labels == "person"]``."""
        return np.array(self.names, np.str_)[self.classes]

    @property
    def area(self) -> NDArray[np.float32]:
        """Of each box, in square pixels, float32 ``(n,)``."""
        sides: NDArray[np.float32] = self.boxes[:, 2:] - self.boxes[:, :2]
        return sides[:, 0] * sides[:, 1]

    def above(self, score: float) -> Detections:
        """Keep the rows with at least this score."""
        return self[self.scores >= score]

    def of(self, *names: str) -> Detections:
        """Keep the rows of these classes.

        Raises:
            ValueError: the detector has no class of that name.
            TypeError: something else than names was given.
        """
        for name in names:
            if not isinstance(name, str):
                expected = ", ".join(map(repr, self.names[:2]))
                raise TypeError(f"got {name!r}; expected names of classes, each by itself: of({expected})")
            if name not in self.names:
                meant = "".join(
                    f" (did you mean {near!r}?)" for near in get_close_matches(name, self.names, 1)
                )
                raise ValueError(f"the detector has no class {name!r}{meant}; it has {', '.join(self.names)}")
        wanted = [index for index, name in enumerate(self.names) if name in names]
        return self[np.isin(self.classes, wanted)]

    def draw(self, picture: Path | str | bytes | NDArray[Any] | Image) -> Drawing:
        """Draw boxes, labels and track ids into a copy of the picture: ``found.draw("a.jpg").save("b.jpg")``.

        Args:
            picture: the one these were found in: a path, an encoded picture, BGR pixels uint8 ``(h, w, 3)``,
                or a PIL image.

        Raises:
            SourceError: the picture cannot be read or decoded here.
            MissingExtra: OpenCV or supervision is not installed.
        """
        from detserve_core.pictures.drawing import Drawing, annotated, require_drawing
        from detserve_core.pictures.files import pixels_of

        require_drawing()
        return Drawing(annotated(pixels_of(picture), self))

    def to_dicts(self) -> list[dict[str, Any]]:
        """JSON-ready rows: ``label``, ``class_id``, ``score``, ``box_px`` (x1, y1, x2, y2).

        Those of a tracked video also have ``track_id``, which may be None.
        """
        rows: list[dict[str, Any]] = [
            {
                "label": self.names[class_id],
                "class_id": class_id,
                "score": _shortest(score),
                "box_px": [_shortest(value) for value in box],
            }
            for class_id, score, box in zip(self.classes.tolist(), self.scores, self.boxes, strict=True)
        ]
        for row, track_id in zip(rows, self.track_ids or (), strict=self.track_ids is not None):
            row["track_id"] = track_id
        return rows

    def to_coco(
        self, image_id: int | str, category_ids: Mapping[str, int | str] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a COCO results file: image_id, category_id, bbox (x, y, width, height), score.

        Args:
            image_id: the picture's id in the annotation file.
            category_ids: category id of each class name, as :func:`detserve_core.datasets.coco_ids.coco_ids`
                reads them; case does not count, and rows of other classes are left out. Without it the
                category id is the class index.
        """
        given = category_ids or {}
        by_key = {name_key(name): given[name] for name in reversed(list(given))}
        rows = []
        for row, (x1, y1, x2, y2) in enumerate(self.boxes.astype(np.float64).tolist()):
            class_id = int(self.classes[row])
            category: int | str | None = class_id
            if category_ids is not None:
                category = given.get(self.names[class_id].strip(), by_key.get(name_key(self.names[class_id])))
            if category is not None:
                bbox = [round(value, 4) for value in (x1, y1, x2 - x1, y2 - y1)]
                score = _shortest(self.scores[row])
                rows.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": score})
        return rows

    def to_supervision(self) -> supervision.Detections:
        """Convert to ``supervision.Detections``; the labels are in ``data["class_name"]``.

        ``tracker_id`` of a row in no track is -1.

        Raises:
            MissingExtra: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise MissingExtra("supervision", "draw") from None
        ids = None if self.track_ids is None else [-1 if each is None else each for each in self.track_ids]
        return supervision.Detections(
            xyxy=np.array(self.boxes),
            confidence=np.array(self.scores),
            class_id=self.classes.astype(np.int64),
            tracker_id=None if ids is None else np.array(ids, np.int64),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
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
