from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from detserve_client import OutputError
from detserve_client.video.container import Container
from detserve_client.video.lines import lines_file
from detserve_client.video.sources import VideoSource
from detserve_client.video.writer import video_writer
from tests.client.video.clips import panned


def test_what_browsers_and_players_open(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.mp4"
    with video_writer(path, 12.5) as writer:
        for index, pixels in enumerate(panned(20)):
            writer.write(pixels, index / 12.5)
    assert list(path.parent.iterdir()) == [path]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (640, 480, 20)
        assert stream.average_rate == 12.5
        assert container.duration == 1_600_000
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), (
        "the index comes first, so that it plays while it loads"
    )
    capture = cv2.VideoCapture(str(path))
    for expected in panned(20):
        done, pixels = capture.read()
        assert done
        assert np.abs(pixels.astype(int) - expected).mean() < 9  # OpenCV takes BT.709 for BT.601
    assert not capture.read()[0]


def test_colours_are_kept(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0], [255, 255, 255], [0, 0, 0], [30, 120, 200]])
    pixels = np.repeat(np.repeat(colours[None].astype(np.uint8), 60, 0), 40, 1)
    with video_writer(tmp_path / "a.mp4", 25) as writer:
        for index in range(5):
            writer.write(pixels, index / 25)
    container = Container(VideoSource("file", str(tmp_path / "a.mp4")))
    frames = list(container.frames())
    container.close()
    assert len(frames) == 5
    assert np.abs(frames[-1].pixels[30, 20::40].astype(int) - colours).max() <= 6


def test_times_are_kept_and_never_go_back(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", 25) as writer:
        for pixels, at_s in zip(panned(5), (0, 0.04, 0.04, 2.5, 2.0), strict=True):
            writer.write(pixels, at_s)
    container = Container(VideoSource("file", str(tmp_path / "a.mp4")))
    times_s = [frame.time_s for frame in container.frames()]
    container.close()
    assert times_s == pytest.approx([0, 0.04, 0.04, 2.5, 2.5], abs=0.001)


@pytest.mark.parametrize(
    ("wh", "written"), [((641, 481), (642, 482)), ((640, 481), (640, 482)), ((1, 1), (2, 2))]
)
def test_odd_sides_grow_by_a_pixel(tmp_path: Path, wh: tuple[int, int], written: tuple[int, int]) -> None:
    with video_writer(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.full((wh[1], wh[0], 3), 200, np.uint8), 0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == written


def test_a_frame_of_another_size_is_stretched(tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", 25) as writer:
        for index, wh in enumerate([(64, 48), (128, 96), (31, 21)]):
            writer.write(np.zeros((wh[1], wh[0], 3), np.uint8), index / 25)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [(frame.width, frame.height) for frame in container.decode(video=0)] == [(64, 48)] * 3


def write_video(path: Path) -> None:
    with video_writer(path, 25) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0)
        raise KeyboardInterrupt


def write_lines(path: Path) -> None:
    with lines_file(path) as append:
        append("{}\n")
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", [write_video, write_lines])
def test_whole_or_not_at_all(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert path.read_text() == "before"
    for wrong in (tmp_path, path / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            write(wrong)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_the_output_s_failure() -> None:
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left on device"):
        with lines_file(Path("/dev/full")) as append:
            append("{}\n")
