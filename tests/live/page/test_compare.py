"""Two detectors on the same pictures: what the page marks is what ``detserve canary`` counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detserve_client import Client
from detserve_core.detections import Detections
from detserve_perf.accuracy.differences import Differences, pair
from detserve_server.triton.embedded import RunningServer
from tests.live.page.conftest import SAMPLES, Visit

pytestmark = pytest.mark.slow  # a browser takes its time

OLD, NEW = "codes_yolo", "codes_ssd"
LABELS = ("qr", "Aztec ", "aztec", "Straße")


def some(rng: np.random.Generator, most: int) -> Detections:
    """Boxes that are near each other, of few classes, some of them equal to the digit."""
    count = int(rng.integers(0, most))
    corners = rng.integers(0, 4, (count, 2)) * 10 + rng.choice([0, 0, 0.5, 2], (count, 2))
    sizes = rng.integers(1, 4, (count, 2)) * 10 + rng.choice([0, 0, 1.25], (count, 2))
    return Detections(
        np.concatenate([corners, corners + sizes], axis=1).astype(np.float32),
        np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
        rng.integers(0, len(LABELS), count).astype(np.int32),
        LABELS,
    )


def as_json(found: Detections) -> list[dict[str, object]]:
    return [{"label": row.label, "score": row.score, "box": list(row.box_px)} for row in found]


def by_canary(old: Detections, found: Detections) -> dict[str, object]:
    pairing = pair(found, old)
    marks = [["alone"] * len(old), ["alone"] * len(found)]
    for (row, other), moved in zip(pairing.rows.tolist(), pairing.moved.tolist(), strict=True):
        marks[1][row] = marks[0][other] = "moved" if moved else "same"
    return {
        "marks": marks,
        "matched": len(pairing.rows),
        "moved": int(pairing.moved.sum()),
        "missed": int(pairing.missed.sum()),
        "extra": int(pairing.extra.sum()),
    }


def test_boxes_are_paired_as_canary_pairs_them(visit: Visit) -> None:
    rng = np.random.default_rng(3)
    cases = [(some(rng, 12), some(rng, 12)) for _ in range(300)]
    compared = visit.page.evaluate(
        """async cases => {
          const { compare } = await import('/page/compare.js');
          return cases.map(([old, found]) => compare(old, found));
        }""",
        [[as_json(old), as_json(found)] for old, found in cases],
    )
    kinds = set()
    for case, by_page in zip(cases, compared, strict=True):
        expected = by_canary(*case)
        assert {key: by_page[key] for key in expected} == expected
        kinds.update(mark for marks in by_page["marks"] for mark in marks)
    assert kinds == {"same", "moved", "alone"}


@pytest.fixture
def two(visit: Visit) -> Visit:
    """The page with both detectors chosen."""
    visit.page.get_by_label("Detector").select_option(OLD)
    visit.page.get_by_label("Compare with").select_option(NEW)
    return visit


def test_what_differs_is_counted_and_marked(two: Visit, server: RunningServer) -> None:
    picture = SAMPLES / "scene_4.jpg"
    two.choose(picture)
    two.score(0.5)
    with Client(server.grpc_url, OLD) as old, Client(server.grpc_url, NEW) as new:
        found = [client.detect(picture, score_threshold=0.5) for client in (old, new)]
    expected = by_canary(*found)
    marks = expected["marks"]
    words = {"same": "in both", "moved": "moved", "alone": "only here"}
    assert [row[-1] for row in two.boxes()] == [words[mark] for one in marks for mark in one]  # type: ignore[attr-defined]
    counts = two.page.locator("#differences td").all_inner_texts()
    same = int(expected["matched"]) - int(expected["moved"])  # type: ignore[call-overload]
    assert counts == [
        str(number) for number in (same, expected["moved"], expected["missed"], expected["extra"])
    ]
    assert two.summary().startswith(f"{OLD} {len(found[0])}, {NEW} {len(found[1])}: ")
    assert two.drawn_pixels(0) > 0 < two.drawn_pixels(1)
    assert two.asked() == 2
    two.score(0.2)
    assert two.asked() == 2


def test_pictures_that_differ_are_counted(two: Visit, server: RunningServer) -> None:
    pictures = sorted(SAMPLES.glob("*.jpg"))
    two.choose(*pictures)
    two.score(0.5)
    with Client(server.grpc_url, OLD) as old, Client(server.grpc_url, NEW) as new:
        answers = [client.detect(pictures, score_threshold=0.5) for client in (old, new)]
    differences = Differences(0)
    for picture, of_old, of_new in zip(pictures, *answers, strict=True):
        differences.update(picture, of_new, of_old)
    changed = sum(bool(one.missed or one.extra or one.moved) for one in differences.pictures)
    assert 0 < changed < 8
    assert two.page.locator("#changed").inner_text() == f"{changed} of 8 pictures differ."
    lines = two.page.locator("#pictures option").all_inner_texts()
    assert sum(line.endswith("differs") for line in lines) == changed


def test_a_detector_beside_itself_differs_in_nothing(visit: Visit) -> None:
    visit.page.get_by_label("Compare with").select_option(visit.page.get_by_label("Detector").input_value())
    visit.choose(SAMPLES / "scene_4.jpg")
    moved, missed, extra = visit.page.locator("#differences td").all_inner_texts()[1:]
    assert (moved, missed, extra) == ("0", "0", "0")


def test_another_detector_is_asked_about_the_same_picture(visit: Visit, server: RunningServer) -> None:
    visit.choose(SAMPLES / "scene_1.jpg")
    visit.page.get_by_label("Detector").select_option(NEW)
    with Client(server.grpc_url, NEW) as client:
        found = client.detect(SAMPLES / "scene_1.jpg")
    visit.until("document.getElementById('summary').textContent.startsWith(it)", f"{len(found)} box")
    visit.until("document.getElementById('score-value').textContent === it", "0.60")
    assert visit.asked() == 2


def test_both_drawn_pictures_are_kept(two: Visit, tmp_path: Path) -> None:
    two.choose(SAMPLES / "scene_4.jpg")
    names = set()
    two.page.on("download", lambda download: names.add(download.suggested_filename))
    two.page.get_by_role("button", name="Drawn picture").click()
    for _ in range(100):
        if len(names) == 2:
            break
        two.page.wait_for_timeout(50)
    assert names == {f"scene_4-{OLD}.jpg", f"scene_4-{NEW}.jpg"}
