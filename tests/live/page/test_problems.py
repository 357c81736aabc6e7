"""What goes wrong is said in plain words, and trying again goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from detserve_core.machine.ports import choose_ports
from detserve_server.triton.embedded import RunningServer
from tests.live.page.conftest import SAMPLES, Visit, rest_service, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCENE = SAMPLES / "scene_1.jpg"


def test_what_is_no_picture_is_refused(visit: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is no picture")
    visit.choose(broken)
    expect(visit.problem()).to_contain_text("The picture cannot be used")
    expect(visit.page.get_by_role("button", name="Try again")).to_be_hidden()
    visit.choose(SCENE)
    expect(visit.problem()).to_be_hidden()
    assert len(visit.boxes()) > 0


def test_a_bad_picture_among_good_ones(visit: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "scene_0.jpg"
    broken.write_bytes(b"this is no picture")
    visit.choose(broken, SCENE)
    lines = visit.page.locator("#pictures option").all_inner_texts()
    assert lines[0] == "scene_0.jpg – refused"
    assert lines[1].startswith("scene_1.jpg – ")
    expect(visit.problem()).to_contain_text("The picture cannot be used")
    visit.page.get_by_label("Pictures", exact=True).select_option(index=1)
    expect(visit.problem()).to_be_hidden()


def test_a_picture_that_is_too_large(visit: Visit, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(SCENE.read_bytes() + bytes(17 << 20))
    visit.choose(large)
    expect(visit.problem()).to_contain_text("too large")


def test_files_without_a_picture(visit: Visit, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("words")
    visit.drop(notes)
    expect(visit.problem()).to_contain_text("There is no picture here")
    assert visit.asked() == 0


def test_a_video_that_the_browser_cannot_play(visit: Visit, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"this is no film")
    with visit.page.expect_file_chooser() as chooser:
        visit.page.get_by_role("button", name="Pictures or a video").click()
    chooser.value.set_files(film)
    expect(visit.problem()).to_contain_text("The browser cannot play this video")


@pytest.fixture
def stoppable(browser: Browser, server: RunningServer) -> Iterator[tuple[Visit, int, ExitStack]]:
    """A page, the port of its service, and what stops the service."""
    port = choose_ports({"rest": None})["rest"]
    with ExitStack() as running:
        url = running.enter_context(rest_service(server.grpc_url, port))
        with visiting(browser, url) as visit:
            yield visit, port, running


def test_a_service_that_is_gone_and_comes_back(
    stoppable: tuple[Visit, int, ExitStack], server: RunningServer
) -> None:
    visit, port, running = stoppable
    visit.choose(SCENE)
    running.close()
    visit.choose(SAMPLES / "scene_2.jpg")
    expect(visit.problem()).to_contain_text("The server does not answer")
    expect(visit.problem()).to_contain_text("detserve rest")
    with rest_service(server.grpc_url, port):
        visit.page.get_by_role("button", name="Try again").click()
        expect(visit.page.locator("#summary")).to_contain_text("box")
        expect(visit.problem()).to_be_hidden()


def test_a_triton_that_is_gone(browser: Browser) -> None:
    """The service answers, and there is nothing behind it."""
    ports = choose_ports({"grpc": None})
    with rest_service(f"grpc://localhost:{ports['grpc']}") as url, visiting(browser, url) as visit:
        expect(visit.problem()).to_contain_text("The server behind this service cannot be reached")
        expect(visit.page.get_by_role("button", name="Try again")).to_be_visible()
