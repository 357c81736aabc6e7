"""A real Chromium on the page of a real ``detserve rest`` in front of a real Triton."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

import cv2
import pytest

from detserve_core.machine.ports import choose_ports
from detserve_server.triton.embedded import RunningServer
from tests.needs import CHROMIUM, needs_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

SAMPLES = Path(__file__).parents[3] / "zoo/samples"
CAMERA_WH = (640, 640)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(needs_chromium)


@contextmanager
def rest_service(triton_url: str, port: int | None = None) -> Iterator[str]:
    """The address of a ``detserve rest`` in a process of its own."""
    port = port or choose_ports({"rest": None})["rest"]
    command = [sys.executable, "-m", "detserve", "rest", "--url", triton_url, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://localhost:{port}/"
    try:
        _wait_for(url + "v1/health/live")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            urlopen(url, timeout=5).close()  # noqa: S310
            return
        except URLError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture(scope="session")
def service(server: RunningServer) -> Iterator[str]:
    """The page's address."""
    with rest_service(server.grpc_url) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, with a camera that films two of the samples in turn."""
    from playwright.sync_api import sync_playwright

    film = tmp_path_factory.mktemp("camera") / "scenes.mjpeg"
    film.write_bytes(b"".join(_frames()))
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


def _frames() -> Iterator[bytes]:
    for name in ["scene_1.jpg", "scene_4.jpg"]:
        frame = cv2.resize(cv2.imread(str(SAMPLES / name)), CAMERA_WH)
        yield from [cv2.imencode(".jpg", frame)[1].tobytes()] * 15


@dataclass
class Visit:
    """An open page, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def choose(self, *pictures: Path) -> None:
        """By the button's chooser, and wait for the answers."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Pictures or a video").click()
        chooser.value.set_files(list(pictures))
        self.answered()

    def answered(self) -> None:
        """Wait until no picture waits for its answer."""
        self.until(
            "!document.getElementById('summary').textContent.startsWith('Asking')"
            " && document.getElementById('progress').textContent === ''"
            " && (document.querySelector('.answered') || !document.getElementById('problem').hidden)"
        )

    def until(self, expression: str, argument: object = None, timeout_s: float = 20) -> None:
        """Wait until JavaScript, of ``it``, is true. Playwright's own way needs eval in the page."""
        for _ in range(round(timeout_s / 0.05)):
            if self.page.evaluate(f"it => Boolean({expression})", argument):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{expression} did not become true; the page says: {self.summary()}")

    def drop(self, *paths: Path) -> None:
        """As a hand drops files and folders of this machine on the page."""
        pointer = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            pointer.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 300, "data": data})
        self.answered()

    def score(self, value: float) -> None:
        """Move the slider, which shows with the first answer."""
        self.page.get_by_label("Score at least").fill(str(value))

    def summary(self) -> str:
        return self.page.locator("#summary").inner_text()

    def problem(self) -> Locator:
        return self.page.get_by_role("alert")

    def boxes(self) -> list[list[str]]:
        """The cells of the table of boxes."""
        if self.page.locator("#boxes-section").get_attribute("open") != "":
            self.page.locator("#boxes-section summary").click()
            self.page.wait_for_timeout(100)  # its rows are written once it is open
        rows = self.page.locator("#boxes tbody tr").all()
        return [row.locator("td").all_inner_texts() for row in rows]

    def drawn_pixels(self, view: int = 0) -> int:
        """How many pixels of the canvas over the picture are not transparent."""
        count: int = self.page.evaluate(
            """view => {
              const canvas = document.querySelectorAll('canvas.boxes')[view];
              const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              let drawn = 0;
              for (let i = 3; i < data.length; i += 4) drawn += data[i] > 0;
              return drawn;
            }""",
            view,
        )
        return count

    def asked(self) -> int:
        """How many pictures were sent."""
        return sum("/detect?" in url for url in self.requests)


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """A new page; what it must never do is looked for at the end."""
    opened = browser.new_context(**context)
    visit = Visit(opened.new_page())
    page = visit.page
    page.set_default_timeout(20_000)
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on("console", lambda message: visit.complaints.append(message.text))  # of drawn_pixels: Canvas2D
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.goto(url)
    try:
        visit.until(
            "document.getElementById('model').options.length || !document.getElementById('problem').hidden"
        )
        yield visit
        assert from_elsewhere(visit.requests, url) == []
        # What is said of an answer that is a refusal is the browser's own.
        assert [
            text for text in visit.complaints if not text.startswith(("Failed to load resource", "Canvas2D"))
        ] == []
    finally:
        opened.close()


def from_elsewhere(requests: Sequence[str], url: str) -> list[str]:
    return [request for request in requests if not request.startswith((url, f"blob:{url}", "data:"))]


@pytest.fixture
def visit(browser: Browser, service: str) -> Iterator[Visit]:
    """The page, freshly opened."""
    with visiting(browser, service) as visited:
        yield visited
