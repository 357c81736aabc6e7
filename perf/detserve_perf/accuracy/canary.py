"""A new detector beside the old one on the same pictures: how much changes, and whether that is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detserve_client.client import Client
from detserve_core.datasets import open_dataset
from detserve_core.errors import RequestRejected
from detserve_perf.accuracy.differences import Counts, Differences
from detserve_perf.accuracy.served_accuracy import score_dataset
from detserve_perf.errors import MeasurementError


@dataclass(frozen=True)
class AllowedChange:
    """What a new detector may change: share of pictures, mean IoU of matched boxes, AP; each 0 to 1."""

    max_changed: float
    min_iou: float
    max_ap_drop: float


@dataclass(frozen=True)
class Comparison:
    """What the new detector does differently.

    Attributes: pictures: how many were sent to both. changed: how many have a box that only one detector
    found, a matched box that moved (IoU under 0.9), or failed with the new detector alone. failed: pictures
    on which the new detector alone failed, and the sentence of the first. boxes: over all pictures and by
    class; ``missed`` are boxes of the old that the new lacks, ``extra`` boxes of the new that the old lacks.
    ap: the old's and the new's, 0 to 1; None without labels.
    """

    pictures: int
    changed: int
    failed: int
    first_failure: str
    boxes: tuple[Counts, ...]
    ap: tuple[float, float] | None = None

    @property
    def changed_share(self) -> float:
        """0 to 1."""
        return self.changed / self.pictures

    def breaches(self, allowed: AllowedChange) -> list[str]:
        """One clause for each limit that is passed; empty when the new detector may take over."""
        found = []
        if self.failed:
            found.append(f"the new detector failed on {self.failed} pictures: {self.first_failure}")
        if self.changed_share > allowed.max_changed:
            found.append(
                f"detections changed on {self.changed_share:.1%} of the pictures, "
                f"allowed are {allowed.max_changed:.1%}"
            )
        iou = self.boxes[0].mean_iou
        if iou is not None and iou < allowed.min_iou:
            found.append(f"matched boxes overlap by {iou:.4f} on average, wanted are {allowed.min_iou:.4f}")
        if self.ap is not None and self.ap[0] - self.ap[1] > allowed.max_ap_drop:
            found.append(
                f"AP fell from {self.ap[0]:.4f} to {self.ap[1]:.4f}, allowed are {allowed.max_ap_drop:.4f}"
            )
        return found


def compare_pictures(
    old: Client,
    new: Client,
    pictures: Sequence[Path],
    *,
    concurrency: int,
    on_picture: Callable[[], None],
) -> Comparison:
    """Send every picture to both detectors, each with the thresholds of its own card.

    A picture that both refuse is not a change. Raises :class:`MeasurementError` when nothing can be compared:
    no picture, none with a box, one on which the old detector fails otherwise. Raises an
    :class:`~detserve_core.errors.InferenceError` when a server does not answer.
    """
    if not pictures:
        raise MeasurementError(
            "there is no picture to compare the detectors on; give --pictures or --from-stdin"
        )
    differences, failures = Differences(0), []
    answers = [client.detect_stream(pictures, window=concurrency) for client in (old, new)]
    for path, of_old, of_new in zip(pictures, *answers, strict=True):
        if of_old.detections is not None and of_new.detections is not None:
            differences.update(path, of_new.detections, of_old.detections)
        elif of_old.detections is not None:
            failures.append(f"{path}: {of_new.error}")
        elif not (isinstance(of_old.error, RequestRejected) and isinstance(of_new.error, RequestRejected)):
            raise MeasurementError(f"the old detector failed on {path}: {of_old.error}")
        on_picture()
    return _comparison(len(pictures), differences, failures)


def compare_dataset(
    old: Client,
    new: Client,
    labels: Path,
    images: Path | None,
    *,
    concurrency: int,
    on_picture: Callable[[], None],
) -> Comparison:
    """As :func:`compare_pictures`, on annotated pictures; then score both detectors as COCO does.

    The scoring sends every picture a second time, with a score threshold that no traffic has. Raises
    :class:`MeasurementError` too when a picture fails, and :class:`DatasetError` when the dataset is wrong.
    """
    dataset = open_dataset(labels, images, old.card().labels)
    pictures = [picture.path for picture in dataset.read()]
    comparison = compare_pictures(old, new, pictures, concurrency=concurrency, on_picture=on_picture)
    (of_old, of_new), _ = score_dataset(
        [old, new], dataset, iou_threshold=None, concurrency=concurrency, worst=0, on_picture=on_picture
    )
    if of_old.table.ap is None or of_new.table.ap is None:
        raise MeasurementError(f"{labels} has no box of a class of {old.model}, so there is no AP to compare")
    return replace(comparison, ap=(of_old.table.ap, of_new.table.ap))


def _comparison(pictures: int, differences: Differences, failures: Sequence[str]) -> Comparison:
    boxes = tuple(differences.by_class())
    if not failures and boxes[0].matched + boxes[0].missed + boxes[0].extra == 0:
        raise MeasurementError(
            f"neither detector found a box in {pictures} pictures, which compares nothing; "
            f"give pictures that show what the detector is for"
        )
    changed = sum(bool(one.missed or one.extra or one.moved) for one in differences.pictures)
    return Comparison(
        pictures, changed + len(failures), len(failures), failures[0] if failures else "", boxes
    )
