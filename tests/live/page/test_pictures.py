"""Pictures that are chosen, dropped and pasted: the detector's boxes, and a slider without a request."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from detserve_client import Client
from detserve_core.detections import Detections
from detserve_server.triton.embedded import RunningServer
from tests.live.page.conftest import SAMPLES, Visit

SCENE = SAMPLES / "scene_2.jpg"  # with two codes


def rows_of(found: Detections) -> list[list[str]]:
    return [
        [row.label, f"{row.score:.3f}", ", ".join(f"{value:.1f}" for value in row.box_px)] for row in found
    ]


@pytest.fixture
def detector(server: RunningServer, visit: Visit) -> Iterator[Client]:
    """The client of the detector that the page asks first."""
    with Client(server.grpc_url, visit.page.get_by_label("Detector").input_value()) as client:
        yield client


def test_a_chosen_picture_has_the_boxes_that_the_client_gets(visit: Visit, detector: Client) -> None:
    visit.choose(SCENE)
    found = detector.detect(SCENE)
    assert len(found) > 1
    assert visit.boxes() == rows_of(found)
    assert visit.summary().startswith(f"{len(found)} boxes: ")
    assert visit.drawn_pixels() > 1000
    assert visit.asked() == 1


def test_the_slider_needs_no_request(visit: Visit, detector: Client) -> None:
    visit.choose(SCENE)
    at_first = visit.drawn_pixels()
    for score in (0.05, 0.3, 0.97):
        visit.score(score)
        assert visit.boxes() == rows_of(detector.detect(SCENE, score_threshold=score)), score
    visit.score(1)
    assert visit.summary() == "No box with a score of 1.00 or more."
    assert visit.drawn_pixels() == 0 < at_first
    assert visit.asked() == 1


def test_classes_are_hidden_by_the_legend(visit: Visit, detector: Client) -> None:
    visit.choose(SCENE)
    found = detector.detect(SCENE)
    label = found[0].label
    visit.page.locator("#legend").get_by_role("button", name=label).click()
    assert visit.boxes() == rows_of(found[found.labels != label])
    visit.page.locator("#legend").get_by_role("button", name=label).click()
    assert visit.boxes() == rows_of(found)
    assert visit.asked() == 1


def test_a_dropped_picture(visit: Visit, detector: Client) -> None:
    visit.drop(SCENE)
    assert visit.boxes() == rows_of(detector.detect(SCENE))


def test_a_dropped_folder(visit: Visit, detector: Client, tmp_path: Path) -> None:
    inner = tmp_path / "yard/inner"
    inner.mkdir(parents=True)
    for number in (1, 2):
        shutil.copy(SAMPLES / f"scene_{number}.jpg", tmp_path / "yard")
    shutil.copy(SAMPLES / "scene_3.jpg", inner)
    (tmp_path / "yard/notes.txt").write_text("no picture")
    visit.drop(tmp_path / "yard")
    lines = visit.page.locator("#pictures option").all_inner_texts()
    expected = [("yard/inner/scene_3.jpg", 3), ("yard/scene_1.jpg", 1), ("yard/scene_2.jpg", 2)]
    counts = [len(detector.detect(SAMPLES / f"scene_{number}.jpg")) for _, number in expected]
    assert lines == [f"{name} – {count}" for (name, _), count in zip(expected, counts, strict=True)]
    assert visit.page.get_by_text("Left out: 1 of another kind.").is_visible()
    assert visit.asked() == 3


def test_a_chosen_folder_and_a_look_at_each_of_its_pictures(visit: Visit, detector: Client) -> None:
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_role("button", name="A folder").click()
    chooser.value.set_files(SAMPLES)
    visit.answered()
    for number in range(8):
        visit.page.get_by_label("Pictures", exact=True).select_option(index=number)
        name = f"scene_{number + 1}.jpg"
        visit.until("document.querySelector('canvas.boxes').ariaLabel.includes(it)", name)
        assert visit.boxes() == rows_of(detector.detect(SAMPLES / name))
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="JSON of all pictures").click()
    records = json.loads(Path(download.value.path()).read_text())
    assert [Path(record["picture"]).name for record in records] == [f"scene_{n}.jpg" for n in range(1, 9)]
    assert visit.asked() == 8


def test_a_pasted_picture(visit: Visit) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    png = BytesIO()
    Image.open(SCENE).save(png, "PNG")
    visit.page.evaluate(
        """async bytes => {
          const blob = new Blob([new Uint8Array(bytes)], { type: 'image/png' });
          await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })]);
        }""",
        list(png.getvalue()),
    )
    visit.page.keyboard.press("Control+V")
    visit.answered()
    assert len(visit.boxes()) > 1


def test_a_picture_that_a_camera_held_upright(visit: Visit, detector: Client, tmp_path: Path) -> None:
    """Browser and server turn it alike; its boxes are where they are seen."""
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(SAMPLES / "scene_2.jpg").rotate(90, expand=True).save(turned, quality=95, exif=exif)
    visit.choose(turned)
    assert visit.boxes() == rows_of(detector.detect(turned))
    assert "may be off" not in visit.summary()
    size = visit.page.evaluate(
        "[document.querySelector('canvas.picture').width, document.querySelector('canvas.picture').height]"
    )
    assert size == list(Image.open(SAMPLES / "scene_2.jpg").size)


def test_a_format_that_the_server_does_not_take(visit: Visit, tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    Image.open(SCENE).save(picture, "TIFF")
    visit.choose(picture)
    assert "not a JPEG, PNG, WebP or BMP picture" in visit.problem().inner_text()


def test_what_is_kept(visit: Visit, detector: Client, tmp_path: Path) -> None:
    visit.choose(SCENE)
    visit.score(0.3)
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="JSON", exact=True).click()
    assert download.value.suggested_filename == "scene_2.json"
    (record,) = json.loads(Path(download.value.path()).read_text())
    found = detector.detect(SCENE, score_threshold=0.3)
    assert [one["box"] for one in record["detections"]] == [pytest.approx(list(row.box_px)) for row in found]
    assert record["image"] == {"width": 540, "height": 960}
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Drawn picture").click()
    assert download.value.suggested_filename == "scene_2-drawn.jpg"
    assert Image.open(download.value.path()).size == (540, 960)


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_call_to_copy_does_what_the_page_did(
    visit: Visit, detector: Client, server: RunningServer, tmp_path: Path, language: str
) -> None:
    program = {"curl": "bash", "Python": sys.executable, "JavaScript": "node"}[language]
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}: apt-get install nodejs")
    picture = tmp_path / "it's a scene.jpg"
    shutil.copy(SCENE, picture)
    visit.choose(picture)
    visit.page.locator("#call summary").click()
    visit.page.get_by_role("button", name=language, exact=True).click()
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.get_by_role("button", name="Copy").click()
    visit.page.get_by_text("Copied.").wait_for()
    code = visit.page.evaluate("navigator.clipboard.readText()")
    script = tmp_path / "call.mjs"
    script.write_text(code.replace("grpc://localhost:8001", server.grpc_url))
    done = subprocess.run([program, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for row in detector.detect(SCENE):
        assert row.label in done.stdout
        assert f"{row.score:.3f}"[:-1] in done.stdout
