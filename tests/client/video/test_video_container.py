"""The reader against OpenCV's, on clips whose, or parts of which, are broken."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from detserve_client import SourceError
from detserve_client.video.container import Container
from detserve_client.video.frames import Frame
from detserve_client.video.sources import VideoSource
from tests.client.video.clips import panned, write_clip

TURNS = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


def frames_of(path: Path) -> tuple[list[Frame], str]:
    """Every frame, and the sentence at the end if there is one."""
    frames: list[Frame] = []
    try:
        container = Container(VideoSource("file", str(path)))
        try:
            frames += container.frames()
        finally:
            container.close()
    except SourceError as error:
        return frames, str(error)
    return frames, ""


def write_h264(path: Path, frames: int, **options: str) -> Path:
    kind = {".mkv": "matroska", ".ts": "mpegts"}.get(path.suffix, path.suffix[1:])
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": "keyint=10:scenecut=0"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for pixels in panned(frames, (160, 120)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_those_of_opencv_and_upright(tmp_path: Path, turn: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 12, (160, 120), fps=10)
    content = path.read_bytes()
    matrix_at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = TURNS[turn]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:matrix_at] + matrix + content[matrix_at + 36 :])
    frames, end = frames_of(path)
    assert end == ""
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 10 for index in range(12)])
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    for frame in frames:
        _, expected = capture.read()
        assert expected.shape == ((160, 120, 3) if turn in (90, 270) else (120, 160, 3))
        assert np.array_equal(frame.pixels, expected)


MIRRORED = {
    "left to right": ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    "along the diagonal": ((0, 1, 1, 0), lambda pixels: pixels.transpose(1, 0, 2)),
    "along the other diagonal": ((0, -1, -1, 0), lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2)),
    "oblique": ((0.7, 0.7, -0.7, 0.7), lambda pixels: pixels),
}


@pytest.mark.parametrize("kind", MIRRORED)
def test_frames_are_mirrored_as_the_display_matrix_says(tmp_path: Path, kind: str) -> None:
    (a, b, c, d), mirror = MIRRORED[kind]
    path = write_clip(tmp_path / "a.mp4", 3, (160, 120), fps=10)
    plain, _ = frames_of(path)
    content = path.read_bytes()
    matrix_at = content.index(b"tkhd") + 4 + 40
    corner = [round(value * 65536) for value in (a, b, c, d)]
    matrix = struct.pack(">9i", *corner[:2], 0, *corner[2:], 0, 0, 0, 1 << 30)
    path.write_bytes(content[:matrix_at] + matrix + content[matrix_at + 36 :])
    frames, _ = frames_of(path)
    for frame, stored in zip(frames, plain, strict=True):
        assert np.array_equal(frame.pixels, mirror(stored.pixels))


def write_with_cover(path: Path, frames: int) -> Path:
    """A cover as the first stream, and behind it a film of so many frames, or none."""
    _, jpeg = cv2.imencode(".jpg", np.zeros((50, 50, 3), np.uint8))
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 50, 50, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("libx264" if frames else "aac", rate=25 if frames else 48_000)
        if frames:
            film.width, film.height, film.pix_fmt = 160, 120, "yuv420p"
        packet = av.Packet(jpeg.tobytes())
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 25)
        container.start_encoding()
        container.mux(packet)
        for pixels in panned(frames, (160, 120)):
            container.mux(film.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(film.encode(None))
    return path


def put_cover_first(path: Path) -> None:
    """Its box before that of the film, as some writers have it; the samples stay where they are."""
    content = path.read_bytes()
    film, cover = content.index(b"trak") - 4, content.index(b"udta") - 4
    assert content.index(b"mdat") < film < cover
    end = cover + int.from_bytes(content[cover : cover + 4], "big")
    path.write_bytes(content[:film] + content[cover:end] + content[film:cover] + content[end:])


def test_a_cover_is_not_the_film(tmp_path: Path) -> None:
    path = write_with_cover(tmp_path / "a.mp4", 12)
    put_cover_first(path)
    frames, end = frames_of(path)
    assert (len(frames), frames[0].pixels.shape, end) == (12, (120, 160, 3), "")
    sound = write_with_cover(tmp_path / "b.mp4", 0)
    assert frames_of(sound) == ([], f"{sound} has no video")


def write_recording(path: Path, frames: int) -> Path:
    """As a browser's recorder writes it: the header's rate is the clock of milliseconds."""
    with av.open(str(path), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=1000, options={"deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(panned(frames, (160, 120))):
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = 40 * index + index % 3, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_rate_that_is_a_clock_is_measured(tmp_path: Path) -> None:
    container = Container(VideoSource("file", str(write_recording(tmp_path / "a.webm", 50))))
    assert container.fps == pytest.approx(25, rel=0.01)
    assert len(list(container.frames())) == 50
    container.close()


def test_a_film_of_high_speed_keeps_its_rate(tmp_path: Path) -> None:
    container = Container(VideoSource("file", str(write_clip(tmp_path / "a.mp4", 48, (160, 120), fps=240))))
    assert container.fps == pytest.approx(240, rel=0.01)
    container.close()


def test_what_the_header_says(tmp_path: Path) -> None:
    container = Container(VideoSource("file", str(write_clip(tmp_path / "a.mp4", 20, (160, 120), fps=12.5))))
    assert (container.fps, container.total_frames) == (12.5, 20)
    container.close()
    container = Container(VideoSource("file", str(write_h264(tmp_path / "a.mkv", 20))))
    assert (container.fps, container.total_frames) == (25.0, 20)
    container.close()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_cut_off_gives_what_can_be_read_and_says_so(tmp_path: Path, name: str) -> None:
    path = write_h264(tmp_path / name, 100, **({"movflags": "+faststart"} if name == "a.mp4" else {}))
    assert frames_of(path)[1] == ""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    frames, end = frames_of(path)
    assert 30 < len(frames) < 80
    pattern = rf"{path} is cut off or damaged: it ends after frame {len(frames) - 1} of 100, at \d\.\d\d s"
    assert re.match(pattern, end)


def test_a_damaged_packet_costs_its_frame_only(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "a.mp4", 60, movflags="+faststart")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux() if packet.size]
    content = bytearray(path.read_bytes())
    position, size = packets[30]
    content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    frames, end = frames_of(path)
    assert len(frames) >= 50
    assert end.startswith(f"{path} is damaged: 1 of its packets cannot be decoded; the last frame")


def test_without_its_index_a_file_is_not_readable(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "a.mp4", 30)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert frames_of(path) == (
        [],
        f"{path} is not a video that can be read here, or was cut off before it was finished",
    )


def test_what_holds_no_video(tmp_path: Path) -> None:
    empty, noise, sound, folder = (tmp_path / name for name in ("e.mp4", "n.mp4", "s.mp4", "f.mp4"))
    empty.touch()
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    folder.mkdir()
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    assert frames_of(empty) == ([], f"{empty} is empty; expected a video")
    assert "is not a video that can be read here" in frames_of(noise)[1]
    assert frames_of(sound) == ([], f"{sound} has no video")
    assert frames_of(folder) == ([], f"{folder} cannot be read: Is a directory")
    assert frames_of(tmp_path / "absent.mp4")[1].endswith(
        "absent.mp4 cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("rtsp://u:secret@127.0.0.1:1/a", "rtsp://u:***@127.0.0.1:1/a cannot be opened: Connection refused"),
        ("rtsp://absent.invalid/a", "cannot be opened: there is no host 'absent.invalid'"),
    ],
)
def test_a_stream_that_is_not_there(address: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=re.escape(sentence)):
        Container(VideoSource("stream", address))


def write_late(path: Path, first_s: int, frames: int) -> Path:
    """A part of a recording that goes on: its times do not begin at 0."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index, pixels in enumerate(panned(frames, (320, 240))):
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            frame.pts, frame.time_base = first_s * 25 + index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_film_that_begins_late_is_whole(tmp_path: Path, suffix: str) -> None:
    path = write_late(tmp_path / f"late{suffix}", 100, 50)
    frames, failure = frames_of(path)
    assert (len(frames), failure) == (50, "")
    assert frames[-1].time_s == pytest.approx(49 / 25, abs=0.01)


def test_a_film_that_begins_late_may_be_cut_off(tmp_path: Path) -> None:
    path = write_late(tmp_path / "late.mkv", 100, 100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "is cut off or damaged" in frames_of(path)[1]
