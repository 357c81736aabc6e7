from __future__ import annotations

import re
from pathlib import Path

import pytest

from detserve_client import SourceError
from detserve_client.video.sources import VideoSource, video_source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("clip.MP4", ("file", "clip.MP4")),
        ("absent.mkv", ("file", "absent.mkv")),
        ("0", ("camera", "0")),
        ("007", ("camera", "7")),
        ("rtsp://host/a", ("stream", "rtsp://host/a")),
        ("RTSPS://u:p@host:322/a?b=c", ("stream", "RTSPS://u:p@host:322/a?b=c")),
        ("a.jpg", None),
        ("*.mp4", None),
        ("3", None),
        ("folder.mp4", None),
        ("²", None),
    ],
)
def test_what_a_source_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: tuple[str, str] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clip.MP4", "a.jpg", "3"):
        Path(name).touch()
    Path("folder.mp4").mkdir()
    found = video_source([source])
    assert (None if found is None else (found.kind, found.address)) == expected


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        (["a.jpg", "clip.mp4"], "clip.mp4 is a video, and 2 sources were given; expected a video alone"),
        (["0", "1"], "camera 0 is a video, and 2 sources were given"),
        (["rtsp://"], "cannot read the stream address 'rtsp://'; expected rtsp://HOST[:PORT]/PATH"),
        (["rtsp://host:99999/a"], "cannot read the stream address"),
        (["https://host/a.mp4"], "cannot read from https://; expected a file, a camera's number or rtsp://"),
    ],
)
def test_mistakes(sources: list[str], sentence: str) -> None:
    with pytest.raises(SourceError, match=re.escape(sentence)):
        video_source(sources)


def test_a_password_is_not_shown() -> None:
    source = VideoSource("stream", "rtsp://admin:p:w@d@10.0.0.2:554/a")
    assert str(source) == "rtsp://admin:***@10.0.0.2:554/a"
    assert "admin" not in source.output_name()


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        (VideoSource("file", "a/clip.mov"), r"clip\.mp4"),
        (VideoSource("camera", "0"), r"camera-0-\d{8}-\d{6}\.mp4"),
        (VideoSource("stream", "rtsp://10.0.0.2/a/../b%20c"), r"10\.0\.0\.2-a-..-b-20c-\d{8}-\d{6}\.mp4"),
    ],
)
def test_the_name_of_the_annotated_video(source: VideoSource, pattern: str) -> None:
    assert re.fullmatch(pattern, source.output_name())
