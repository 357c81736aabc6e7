"""Hundreds of pictures, one after the other: what the page holds does not grow with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import pytest

from tests.live.page.conftest import SAMPLES, Visit

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = 200
COUNT_URLS = """
  window.urls = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = blob => { const url = createObjectURL.call(URL, blob); urls.add(url); return url; };
  URL.revokeObjectURL = url => { urls.delete(url); revokeObjectURL.call(URL, url); };
"""


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Half a megapixel each, all different."""
    scene = cv2.resize(cv2.imread(str(SAMPLES / "scene_1.jpg")), (720, 720))
    paths = []
    for index in range(PICTURES):
        scene[:8, :8] = index
        paths.append(tmp_path / f"picture_{index:03}.jpg")
        cv2.imwrite(str(paths[-1]), scene)
    return paths


def held(visit: Visit) -> dict[str, float]:
    """Bytes, nodes and listeners left after a collection, and the object URLs that are not revoked."""
    session = visit.page.context.new_cdp_session(visit.page)
    session.send("Performance.enable")
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    urls = visit.page.evaluate("urls.size")
    return {name: metrics[name] for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")} | {"urls": urls}


@pytest.mark.slow
def test_two_hundred_pictures_leave_nothing_behind(visit: Visit, pictures: list[Path]) -> None:
    visit.page.evaluate(COUNT_URLS)

    def look(some: list[Path]) -> None:
        for path in some:
            visit.choose(path)
            with visit.page.expect_download():
                visit.page.get_by_role("button", name="JSON", exact=True).click()

    look(pictures[:20])
    visit.page.wait_for_timeout(1500)
    at_first = held(visit)
    look(pictures[20:])
    visit.page.wait_for_timeout(1500)
    at_last = held(visit)
    assert at_last["urls"] == 0
    assert at_last["Nodes"] <= at_first["Nodes"] + 50, (at_first, at_last)
    assert at_last["JSEventListeners"] <= at_first["JSEventListeners"] + 10, (at_first, at_last)
    assert at_last["JSHeapUsedSize"] <= at_first["JSHeapUsedSize"] + 500_000, (at_first, at_last)


@pytest.mark.slow
def test_two_hundred_pictures_of_a_folder(visit: Visit, pictures: list[Path]) -> None:
    """All answers are kept, the pictures are not: a look at each leaves as much as a look at one."""
    visit.page.evaluate(COUNT_URLS)
    visit.page.set_default_timeout(120_000)
    visit.choose(*pictures)
    assert visit.asked() == PICTURES
    at_first = held(visit)
    for index in range(PICTURES):
        visit.page.get_by_label("Pictures", exact=True).select_option(index=index)
        visit.until("document.querySelector('canvas.boxes').ariaLabel.startsWith(it)", pictures[index].name)
    at_last = held(visit)
    assert at_last["urls"] == 0
    assert at_last["Nodes"] <= at_first["Nodes"] + 50, (at_first, at_last)
    assert at_last["JSHeapUsedSize"] <= at_first["JSHeapUsedSize"] + 500_000, (at_first, at_last)
    assert visit.asked() == PICTURES
