"""``detserve detect`` on a clip, on an RTSP stream that dies, and in a window on a screen nobody sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest

from detserve_server.triton.embedded import RunningServer
from tests.client.video.clips import panned, write_clip
from tests.live.conftest import DEFAULT

_Found = TypeVar("_Found")
SYSTEM_PYTHON = "/usr/bin/python3"
HAS_RTSP = (
    Path(SYSTEM_PYTHON).exists()
    and subprocess.run(
        [SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"],
        capture_output=True,
        check=False,
    ).returncode
    == 0
)
needs_rtsp = pytest.mark.skipif(
    not HAS_RTSP,
    reason="no RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi",
)
needs_screen = pytest.mark.skipif(
    not all(map(shutil.which, ("Xvfb", "openbox", "xdotool", "xprop", "xwd"))),
    reason="no screen: apt-get install xvfb openbox xdotool x11-utils x11-apps",
)


@contextmanager
def detecting(
    server: RunningServer, *arguments: object, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "detserve.command", "detect", *map(str, arguments)]
    process = subprocess.Popen(
        [*command, "--model", DEFAULT, "--url", server.grpc_url],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(looked_for: Callable[[], _Found | None], what: str, limit_s: float = 60) -> _Found:
    end_s = time.monotonic() + limit_s
    while (found := looked_for()) is None:
        assert time.monotonic() < end_s, f"waited {limit_s} s for {what}"
        time.sleep(0.1)
    return found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, pixels in enumerate(panned(50)):
        cv2.imwrite(str(folder / f"{index:03d}.jpg"), pixels)
    return folder


@contextmanager
def rtsp_server(pictures: Path, port: int = 0) -> Iterator[int]:
    command = [SYSTEM_PYTHON, str(Path(__file__).with_name("rtsp_serve.py"))]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    process = subprocess.Popen(
        [*command, str(pictures), "640", "480", "25", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def test_a_clip_with_tracks(server: RunningServer, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 100)
    lines = tmp_path / "clip.jsonl"
    with detecting(server, clip, "--track", "--save", tmp_path / "out", "--json", lines) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    assert "frames 100, " in stdout
    labels: dict[int, set[str]] = {}
    longest: dict[int, int] = {}
    for line in map(json.loads, lines.read_text().splitlines()):
        for row in line["detections"]:
            if row["track_id"] is not None:
                labels.setdefault(row["track_id"], set()).add(row["label"])
                longest[row["track_id"]] = longest.get(row["track_id"], 0) + 1
    assert 3 <= len(labels) <= 8
    assert {next(iter(labels[each])) for each, count in longest.items() if count >= 15} >= {
        "pdf417",
        "datamatrix",
    }
    capture = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (100, 25)


@needs_rtsp
def test_a_stream_that_dies_and_comes_back(server: RunningServer, tmp_path: Path, pictures: Path) -> None:
    out, pipe = tmp_path / "out", tmp_path / "pipe"
    os.mkfifo(pipe)
    with ExitStack() as first_server:
        port = first_server.enter_context(rtsp_server(pictures))
        address = f"rtsp://127.0.0.1:{port}/clip"
        with (
            detecting(server, address, "--track", "--save", out, "--json", pipe) as process,
            pipe.open() as lines,
        ):
            assert process.stderr is not None
            seen = [json.loads(lines.readline()) for _ in range(20)]
            first_server.close()
            assert process.stderr.readline().endswith("; connecting again\n")
            with rtsp_server(pictures, port):
                assert process.stderr.readline() == "connected again\n"
                seen += [json.loads(line) for line in islice(lines, 60)]
                process.send_signal(signal.SIGINT)
                lines.read()
                stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert ", reconnected 1, in " in stdout
    indices = [line["frame"] for line in seen]
    assert indices == sorted(set(indices))
    assert any(line["detections"] for line in seen)
    (video,) = out.iterdir()
    assert video.name.startswith("127.0.0.1-clip-")
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) >= len(seen)


@needs_rtsp
def test_a_stream_without_such_a_path(server: RunningServer, pictures: Path) -> None:
    with rtsp_server(pictures) as port:
        with detecting(server, f"rtsp://127.0.0.1:{port}/absent") as process:
            stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert stderr == (
        f"detserve: rtsp://127.0.0.1:{port}/absent cannot be opened: Server returned 404 Not Found\n"
    )


@pytest.fixture
def screen() -> Iterator[str]:
    """The name of an X display that nobody sees, with a window manager as on any desktop.

    Without one, Qt now and then takes a window for hidden that is not, and never paints it.
    """
    reading, writing = os.pipe()
    with ExitStack() as running:
        # Without -noreset it starts over, and turns connections away, whenever its last client leaves.
        command = ["Xvfb", "-noreset", "-displayfd", str(writing), "-screen", "0", "1280x800x24"]
        display = subprocess.Popen(command, pass_fds=(writing,), stderr=subprocess.DEVNULL)
        running.callback(display.wait)
        running.callback(display.terminate)
        os.close(writing)
        with os.fdopen(reading) as numbers:
            name = f":{numbers.readline().strip()}"
        manager = subprocess.Popen(
            ["openbox", "--sm-disable"], env={**os.environ, "DISPLAY": name}, stderr=subprocess.DEVNULL
        )
        running.callback(manager.wait)
        running.callback(manager.terminate)
        until(lambda: _managed(name), "the window manager")
        yield name


def _managed(screen: str) -> bool | None:
    """True when a window manager has taken the screen, by the property every one of them sets."""
    asked = subprocess.run(
        ["xprop", "-display", screen, "-root", "_NET_SUPPORTING_WM_CHECK"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "window id" in asked.stdout or None


def picture_in(screen: str, window: str, width_px: int, height_px: int) -> np.ndarray[Any, Any] | None:
    """What is in a window, BGR, out of an X window dump of 24 or 32 bits; None before a picture does.

    A window that takes its size while it is dumped makes xwd fail: what it asked for is no longer there.
    """
    dump = subprocess.run(
        ["xwd", "-silent", "-id", window, "-display", screen], capture_output=True, check=False
    )
    if dump.returncode:
        return None
    header = np.frombuffer(dump.stdout[:100], ">u4")
    size, width, height, row_bytes, colors = header[0], header[4], header[5], header[12], header[19]
    if (width, height) != (width_px, height_px):
        return None
    rows = np.frombuffer(dump.stdout, np.uint8, offset=int(size) + 12 * int(colors))
    pixels = rows[: height * row_bytes].reshape(height, row_bytes)[:, : width * 4].reshape(height, width, 4)
    return pixels[..., :3] if pixels[..., :3].std() > 20 else None


@needs_screen
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_the_window_shows_the_video_and_a_key_ends_it(
    server: RunningServer, tmp_path: Path, screen: str, key: str
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2000)
    lines = tmp_path / "clip.jsonl"
    with detecting(server, clip, "--show", "--json", lines, DISPLAY=screen) as process:
        find = ["xdotool", "search", "--onlyvisible", "--name", f"{clip} - detserve"]

        def window() -> str | None:
            found = subprocess.run(
                find, env={**os.environ, "DISPLAY": screen}, capture_output=True, text=True, check=False
            )
            return found.stdout.strip() or None

        (number,) = until(window, "the window").split()
        shown = until(lambda: picture_in(screen, number, 640, 480), "a picture of 640x480 in the window")
        status = shown[2:20, 5:200]
        assert np.median(status) == 0, "the status line stands on black"
        assert status.max() > 200, "in white"
        for action in (["windowfocus", number], ["key", "--window", number, key]):
            subprocess.run(["xdotool", *action], env={**os.environ, "DISPLAY": screen}, check=True)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    written = len(lines.read_text().splitlines())
    assert 0 < written < 2000
    assert f"frames {written}, " in stdout
