"""``client.video`` and ``client.evaluate`` against a detector in memory."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detserve_client import (
    Card,
    Client,
    DetectionRequest,
    Detections,
    FakeTransport,
    RequestRejected,
    SourceError,
)
from detserve_core.datasets.errors import DatasetError
from tests.client.video.clips import write_clip


def test_frames_with_their_detections_and_tracks(card: Card, found: Detections, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 12)
    with Client("pets", "pets", transport=FakeTransport(card, lambda request: found)) as client:
        frames = list(client.video(clip, track=True))
        untracked = next(iter(client.video(str(clip))))
    assert [frame.index for frame in frames] == list(range(12))
    assert frames[5].time_s == pytest.approx(0.2)
    assert frames[0].pixels.shape == (480, 640, 3)
    assert {frame.detections.track_ids for frame in frames} == {(1, None)}
    assert untracked.detections == found


def test_a_frame_that_fails_and_what_is_no_video(card: Card, found: Detections, tmp_path: Path) -> None:
    asked: list[DetectionRequest] = []

    def answer(request: DetectionRequest) -> Detections:
        asked.append(request)
        if len(asked) == 3:
            raise RequestRejected("the picture is rejected: torn")
        return found

    clip = write_clip(tmp_path / "clip.mp4", 12)
    with Client("pets", "pets", transport=FakeTransport(card, answer)) as client:
        with pytest.raises(RequestRejected, match="^frame 2 failed: the picture is rejected: torn$"):
            list(client.video(clip, window=1))
        with pytest.raises(SourceError, match=r"a\.jpg is not a video; expected a video file, a camera"):
            list(client.video("a.jpg"))


def coco(folder: Path, found: Detections) -> Path:
    """Two pictures, in each of which one of the boxes of ``found`` was annotated."""
    cv2.imwrite(str(folder / "a.png"), np.zeros((200, 300, 3), np.uint8))
    cv2.imwrite(str(folder / "b.png"), np.zeros((200, 300, 3), np.uint8))
    rows = found.to_coco(1, {"dog": 18}) + found.to_coco(2, {"cat": 17})
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [{"id": id, "area": 100, "iscrowd": 0, **row} for id, row in enumerate(rows, 1)],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def test_average_precision(card: Card, found: Detections, tmp_path: Path) -> None:
    annotations = coco(tmp_path, found)
    with Client("pets", "pets", transport=FakeTransport(card, lambda request: found)) as client:
        figures = client.evaluate(annotations, tmp_path)
        assert figures.pictures == 2
        assert figures.ap50 == pytest.approx(0.75)
        assert {row.name for row in figures.classes} >= {"cat", "dog"}
        with pytest.raises(DatasetError, match="there is no"):
            client.evaluate(tmp_path / "absent.json")


def test_a_picture_that_fails_is_not_scored(card: Card, found: Detections, tmp_path: Path) -> None:
    def answer(request: DetectionRequest) -> Detections:
        raise RequestRejected("the picture is rejected: torn")

    with Client("pets", "pets", transport=FakeTransport(card, answer)) as client:
        with pytest.raises(RequestRejected, match=r"picture 0 \(.*a\.png\) failed: the picture is rejected"):
            client.evaluate(str(coco(tmp_path, found)), str(tmp_path))
