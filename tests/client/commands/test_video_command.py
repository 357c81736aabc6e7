"""``detserve detect`` on videos, against a real gRPC server that knows each frame."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from detserve_client import Card, Detections
from tests.client.transports.triton_grpc import grpc_server, infer_response
from tests.client.video.clips import write_clip
from tests.command import detserve

NO_SCREEN = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
ENVIRONMENT = {**os.environ, "COLUMNS": "200", **NO_SCREEN}


def command(url: str, *arguments: object) -> list[str]:
    """its own process, where a test sends it a signal or gives it a standard output."""
    given = [*map(str, arguments), "--model", "pets", "--url", url]
    return [sys.executable, "-m", "detserve.command", "detect", *given]


def detect(url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return detserve("detect", *arguments, "--model", "pets", "--url", url, **NO_SCREEN)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def clip_of_greys(path: Path, frames: int) -> Path:
    """Frame ``n`` is as bright as ``n``, so that its answer can tell which it was."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))  # type: ignore[attr-defined]
    for index in range(frames):
        writer.write(np.full((48, 64, 3), index, np.uint8))
    writer.release()
    return path


@pytest.fixture
def delay_s() -> list[float]:
    return [0.0]


@pytest.fixture
def url(card: Card, delay_s: list[float]) -> Iterator[str]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        picture = np.frombuffer(request.raw_input_contents[0][4:], np.uint8)
        grey = round(float(cv2.imdecode(picture, cv2.IMREAD_COLOR).mean()))
        time.sleep(delay_s[0] * (1 + grey % 3))
        if grey == 13:
            context.abort(grpc.StatusCode.INTERNAL, "in ensemble 'pets', picture 0: not a picture")
        found = Detections(
            np.array([[grey / 4, 10, grey / 4 + 20, 40]], np.float32),
            np.array([0.9], np.float32),
            np.array([1], np.int32),
            ("cat", "dog", "bicycle"),
        )
        return infer_response(found)

    with grpc_server(card, answer) as address:
        yield address


def test_a_file_loses_no_frame_and_every_frame_has_its_own_boxes(
    url: str, tmp_path: Path, delay_s: list[float]
) -> None:
    delay_s[0] = 0.005
    clip = clip_of_greys(tmp_path / "greys.avi", 100)
    done = detect(url, clip, "--save", tmp_path / "out", "--json", tmp_path / "d.jsonl", "--track")
    assert done.returncode == 1, done.stderr
    assert done.stderr == "frame 13 failed: the picture is rejected: not a picture\n"
    assert "frames 100, detections 99, tracks 1, failed 1, dropped 0, in " in done.stdout
    lines = lines_of(tmp_path / "d.jsonl")
    assert [line["frame"] for line in lines] == list(range(100))
    assert [line["time_s"] for line in lines] == [round(index / 25, 6) for index in range(100)]
    assert lines[13]["error"] == "the picture is rejected: not a picture"
    del lines[13]
    for line in lines:
        (row,) = line["detections"]
        assert row["box_px"][0] == pytest.approx(line["frame"] / 4, abs=0.51)
        assert (row["label"], row["track_id"]) == ("dog", 1)
    capture = cv2.VideoCapture(str(tmp_path / "out/greys.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 100
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["greys.mp4"]


def test_without_tracks_a_line_has_no_track_ids(url: str, tmp_path: Path) -> None:
    done = detect(url, clip_of_greys(tmp_path / "a.avi", 3), "--json", tmp_path / "d.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert ", tracks" not in done.stdout
    assert "track_id" not in (tmp_path / "d.jsonl").read_text()


def test_lines_go_into_a_pipe_as_they_come(url: str, tmp_path: Path) -> None:
    given = command(url, clip_of_greys(tmp_path / "a.avi", 3), "--json", "/dev/stdout")
    done = subprocess.run(given, capture_output=True, text=True, check=True, timeout=120, env=ENVIRONMENT)
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()[:3]] == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_written(
    url: str, tmp_path: Path, delay_s: list[float], number: signal.Signals
) -> None:
    delay_s[0] = 0.05
    clip = clip_of_greys(tmp_path / "a.avi", 250)
    arguments = ("--save", tmp_path / "out", "--json", tmp_path / "d.jsonl", "--window", "2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(url, clip, *arguments), text=True, env=ENVIRONMENT, **pipes) as process:  # type: ignore[call-overload]
        until = time.monotonic() + 60
        while not list((tmp_path / "out").glob(".a.mp4.*.part")) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
        for _ in range(2):
            process.send_signal(number)
            time.sleep(0.05)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in stderr) == (130, False)
    frames = len(lines_of(tmp_path / "d.jsonl"))
    assert 0 < frames < 250
    assert f"frames {frames}, detections" in stdout
    assert cv2.VideoCapture(str(tmp_path / "out/a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.avi", "d.jsonl", "out"]


def test_a_file_cut_off_is_detected_in_as_far_as_it_goes(url: str, tmp_path: Path) -> None:
    clip = clip_of_greys(tmp_path / "a.avi", 100)
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 2])
    done = detect(url, clip, "--json", tmp_path / "d.jsonl", "--save", tmp_path / "out", "--score", "0.5")
    frames = len(lines_of(tmp_path / "d.jsonl"))
    assert done.returncode == 1
    assert 40 < frames < 60
    last = done.stderr.splitlines()[-1]
    assert re.match(rf"detserve: {clip} is (cut off or )?damaged: .* frame {frames - 1}\b", last)
    assert cv2.VideoCapture(str(tmp_path / "out/a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == frames


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/empty.mp4"], "empty.mp4 is empty; expected a video"),
        (["{tmp}/absent.mp4"], "absent.mp4 cannot be read: No such file or directory"),
        (["97"], "camera 97 is not there or cannot be opened; expected the number of a camera, from 0"),
        (["rtsp://127.0.0.1:1/a"], "rtsp://127.0.0.1:1/a cannot be opened: Connection refused"),
        (["{tmp}/a.avi", "{tmp}/a.avi"], "is a video, and 2 sources were given; expected a video alone"),
        (["{tmp}/a.avi", "--show"], "--show cannot open a window: there is no screen here"),
        (["{tmp}/a.mp4", "--save", "{tmp}"], "would overwrite the video"),
        (["{tmp}/a.avi", "--json", "{tmp}"], "cannot be written: it is a folder"),
        (["{tmp}/a.avi", "--save", "{tmp}/a.avi"], "cannot be written: "),
        (["{tmp}/a.avi", "--url", "grpc://127.0.0.1:1"], "cannot be reached: Connection refused"),
    ],
)
def test_a_mistake_is_one_sentence(url: str, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    clip_of_greys(tmp_path / "a.avi", 2)
    write_clip(tmp_path / "a.mp4", 2, (64, 48))
    (tmp_path / "empty.mp4").touch()
    before = sorted(tmp_path.iterdir())
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    done = detserve("detect", "--model", "pets", "--url", url, *given, **NO_SCREEN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("detserve: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments", [("a.avi", "--coco", "c.json"), ("a.jpg", "--track"), ("a.jpg", "--show")]
)
def test_wrong_usage_exits_2(url: str, arguments: tuple[str, ...]) -> None:
    assert detect(url, *arguments).returncode == 2
