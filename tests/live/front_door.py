"""Ten lines as a user writes them; type-checked strictly, and run against a real server."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import detserve


def ten_lines(checkpoint: str, photo: str, clip: str, annotations: str, pictures: str, out: Path) -> None:
    detector = detserve.build(checkpoint)
    with detserve.serve(detector) as client:
        picture = cv2.imread(photo)
        found = client.detect(picture)
        first, best, two = found[0], found[:5], found[[0, 0]]
        print(first.label, len(best), two.labels, found.xyxy, found.confidence, found.class_id)
        large = found.of(client.labels[0])[found.of(client.labels[0]).area > 100]
        found.draw(picture).save(str(out / "out.jpg"))
        print(large, found.to_supervision(), found.to_dicts(), found[found.area > 1024])
        for frame in client.video(clip, track=True):
            print(frame.index, frame.detections.track_ids)
        print(client.evaluate(annotations, pictures).ap50, client.labels, client.models(), repr(client))
        other_ways(client, photo, pictures)


def other_ways(client: detserve.Client, photo: str, pictures: str) -> None:
    by_path: detserve.Detections = client.detect(photo)
    with Path(photo).open("rb") as file:
        ways = [client.detect(Path(photo)), client.detect(Path(photo).read_bytes()), client.detect(file)]
    assert ways == [by_path] * 3
    in_rgb = np.asarray(Image.open(photo).convert("RGB"))
    assert len(client.detect(Image.open(photo))) == len(client.detect(in_rgb, rgb=True)) == len(by_path)
    several: list[detserve.Detections] = client.detect([photo, Path(photo)])
    assert several == [by_path, by_path]
    assert by_path in client.detect(Path(pictures).glob("*.jpg"))
    for outcome in client.detect_stream([photo]):
        if outcome.ok:
            print(outcome.detections.labels, f"{outcome.latency_s:.3f} s")
        else:
            raise outcome.error
