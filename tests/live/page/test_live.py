"""The camera and video files: frames go one at a time, and each is shown with its own boxes."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from tests.live.page.conftest import SAMPLES, Visit

pytestmark = pytest.mark.slow  # a browser takes its time

FRAMES, RATE = 50, 25


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of WebM: one scene, then another."""
    path = tmp_path_factory.mktemp("clips") / "yard.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=RATE)
        stream.width = stream.height = 640
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for index in range(FRAMES):
            name = "scene_1.jpg" if index < FRAMES // 2 else "scene_4.jpg"
            pixels = cv2.resize(cv2.imread(str(SAMPLES / name)), (640, 640))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    return path


def wait_for_boxes(visit: Visit) -> None:
    visit.until("/^[1-9][0-9]* box/.test(document.getElementById('summary').textContent)")


def in_flight_at_most(visit: Visit) -> list[int]:
    """How many pictures are on their way: a list whose last entry is the most so far."""
    now, most = [0], [0]

    def started(request: object) -> None:
        now[0] += "/detect?" in request.url  # type: ignore[attr-defined]
        most[0] = max(most[0], now[0])

    def ended(request: object) -> None:
        now[0] -= "/detect?" in request.url  # type: ignore[attr-defined]

    visit.page.on("request", started)
    visit.page.on("requestfinished", ended)
    visit.page.on("requestfailed", ended)
    return most


def test_the_camera(visit: Visit) -> None:
    most = in_flight_at_most(visit)
    visit.page.get_by_role("button", name="Camera").click()
    wait_for_boxes(visit)
    expect(visit.page.locator("#rate")).to_have_text(re.compile(r"\d+\.\d frames/s"))
    asked = visit.asked()
    visit.page.wait_for_timeout(1000)
    assert visit.asked() > asked + 2
    assert most == [1]
    assert visit.drawn_pixels() > 500
    visit.page.get_by_role("button", name="Stop").click()
    visit.page.wait_for_timeout(300)
    asked = visit.asked()
    visit.page.wait_for_timeout(500)
    assert visit.asked() == asked
    assert visit.page.evaluate("document.getElementById('video').srcObject") is None


def test_the_slider_while_the_camera_runs(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Camera").click()
    wait_for_boxes(visit)
    visit.score(1)
    visit.page.get_by_text("No box with a score of 1.00 or more.").wait_for()
    assert visit.drawn_pixels() == 0


def test_the_camera_with_two_detectors(visit: Visit) -> None:
    visit.page.get_by_label("Compare with").select_option("codes_ssd")
    visit.page.get_by_role("button", name="Camera").click()
    visit.until("document.getElementById('summary').textContent.includes('in both')")
    assert visit.page.locator("figure:visible").count() == 2


def test_a_picture_takes_the_place_of_the_camera(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Camera").click()
    wait_for_boxes(visit)
    visit.choose(SAMPLES / "scene_2.jpg")
    assert visit.page.evaluate("document.getElementById('video').srcObject") is None
    asked = visit.asked()
    visit.page.wait_for_timeout(500)
    assert visit.asked() == asked
    assert visit.page.get_by_role("button", name="Stop").is_hidden()


def test_a_video_file(visit: Visit, clip: Path) -> None:
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_role("button", name="Pictures or a video").click()
    chooser.value.set_files(clip)
    wait_for_boxes(visit)
    visit.until("document.getElementById('video').ended")
    visit.page.get_by_role("button", name="Play").wait_for()
    visit.page.wait_for_timeout(500)
    assert same_scene(visit) == "scene_4.jpg"
    visit.page.get_by_label("Position").fill("100")
    visit.page.wait_for_timeout(800)
    assert same_scene(visit) == "scene_1.jpg"


def test_a_dropped_video_plays_until_it_is_paused(visit: Visit, clip: Path) -> None:
    pointer = visit.page.context.new_cdp_session(visit.page)
    data = {"items": [], "files": [str(clip)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        pointer.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 300, "data": data})
    wait_for_boxes(visit)
    visit.page.get_by_role("button", name="Pause").click()
    visit.page.wait_for_timeout(500)
    asked = visit.asked()
    visit.page.wait_for_timeout(500)
    assert visit.asked() == asked


def same_scene(visit: Visit) -> str:
    """Which scene the page shows."""
    shown = visit.page.evaluate(
        "document.querySelector('canvas.picture').toDataURL('image/png').split(',')[1]"
    )
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(shown), np.uint8), cv2.IMREAD_COLOR)
    scenes = {
        name: cv2.resize(cv2.imread(str(SAMPLES / name)), pixels.shape[1::-1])
        for name in ("scene_1.jpg", "scene_4.jpg")
    }
    return min(scenes, key=lambda name: float(np.abs(scenes[name].astype(float) - pixels).mean()))
