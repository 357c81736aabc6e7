"""``detserve detect`` against a real gRPC server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from detserve_client import Card, Detections
from tests.client.transports.triton_grpc import grpc_server, infer_response
from tests.command import detserve


def detect(*arguments: object) -> subprocess.CompletedProcess[str]:
    return detserve("detect", *arguments)


@pytest.fixture
def url(card: Card, found: Detections) -> Iterator[str]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if request.raw_input_contents[0][4:] == b"torn":
            context.abort(grpc.StatusCode.INTERNAL, "in ensemble 'pets', picture 0: not a picture")
        least = request.parameters["score_threshold"].double_param
        most = request.parameters["max_detections"].int64_param or len(found)
        kept = found.above(least)
        return infer_response(kept[np.arange(len(kept)) < most])

    with grpc_server(card, answer) as address:
        yield address


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("1.jpg", "sub/dog.png"):
        cv2.imwrite(str(folder / name), np.zeros((120, 200, 3), np.uint8))
    return folder


def test_everything_is_written(url: str, folder: Path, tmp_path: Path, found: Detections) -> None:
    out = tmp_path / "out"
    done = detect(
        *(folder, "--model", "pets", "--url", url, "--save", out / "drawn"),
        *("--json", out / "d.json", "--coco", out / "c.json"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pictures 2, detections 4, failed 0" in done.stdout
    assert "1 dog, 1 cat" in done.stdout
    entries = json.loads((out / "d.json").read_text())
    assert [entry["source"] for entry in entries] == [str(folder / "1.jpg"), str(folder / "sub/dog.png")]
    assert entries[0]["detections"] == found.to_dicts()
    assert [row["image_id"] for row in json.loads((out / "c.json").read_text())] == [1, 1, 2, 2]
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["c.json", "d.json", "drawn/1.jpg", "drawn/sub/dog.png"]
    assert cv2.imread(str(out / "drawn/1.jpg")).max() > 60


def test_one_bad_picture_does_not_stop_the_others(url: str, folder: Path, tmp_path: Path) -> None:
    """In its own process, as the others are not."""
    (folder / "0.jpg").write_bytes(b"torn")
    (folder / "2.jpg").touch()
    command = [sys.executable, "-m", "detserve.command", "detect", folder, "--model", "pets"]
    command += ["--url", url, "--json", tmp_path / "d.json"]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=wide)
    assert done.returncode == 1
    assert "pictures 2, detections 4, failed 2" in done.stdout
    assert done.stderr.splitlines() == [
        f"failed {folder / '0.jpg'}: the picture is rejected: not a picture",
        f"failed {folder / '2.jpg'} is empty; expected a JPEG, PNG, WebP or BMP",
    ]
    entries = json.loads((tmp_path / "d.json").read_text())
    assert ["error" in entry for entry in entries] == [True, False, True, False]


def test_thresholds_reach_the_server(url: str, folder: Path) -> None:
    arguments = (folder / "1.jpg", "--model", "pets", "--url", url)
    assert "detections 1," in detect(*arguments, "--score", "0.5").stdout
    assert "detections 1," in detect(*arguments, "--max-detections", "1").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.jpg"], "there is no file or folder 'absent.jpg'"),
        (["{folder}", "--url", "localhost:no"], "cannot read the server address 'localhost:no'"),
        (["{folder}", "--url", "grpc://127.0.0.1:1"], "cannot be reached: Connection refused"),
        (["{folder}", "--save", "{folder}"], "would overwrite the picture"),
    ],
)
def test_a_mistake_is_one_sentence(url: str, folder: Path, arguments: list[str], sentence: str) -> None:
    given = [argument.format(folder=folder) for argument in arguments]
    done = detect("--url", url, "--model", "pets", *given)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("detserve: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


@pytest.mark.parametrize("option", [("--score", "2"), ("--window", "0"), ("--show",)])
def test_wrong_usage_exits_2(folder: Path, option: tuple[str, ...]) -> None:
    assert detect(folder, "--model", "pets", *option).returncode == 2


def test_help() -> None:
    done = detect("--help")
    assert done.returncode == 0
    assert "--coco" in done.stdout


def test_names_that_are_not_utf8(url: str, folder: Path, tmp_path: Path, found: Detections) -> None:
    """The table, JSON and the failures can be read everywhere; the picture is found again by its name."""
    latin_1 = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))
    (folder / "1.jpg").rename(latin_1)
    Path(os.fsdecode(os.fsencode(folder) + b"/torn\xe9.jpg")).write_bytes(b"torn")
    done = _in_terminal(
        "utf-8:strict", "detect", folder, "--model", "pets", "--url", url, "--json", tmp_path / "d.json"
    )
    assert done.returncode == 1
    assert b"\\udce9.jpg" in done.stdout
    assert b"Traceback" not in done.stderr
    entries = json.loads((tmp_path / "d.json").read_bytes())
    assert [entry["source"].encode() for entry in entries] == [
        f"{folder}/caf\\xe9.jpg".encode(),
        f"{folder}/sub/dog.png".encode(),
        f"{folder}/torn\\xe9.jpg".encode(),
    ]
    done = _in_terminal(
        "utf-8:strict", "image", "draw", latin_1, tmp_path / "d.png", "--json", tmp_path / "d.json"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert cv2.imread(str(tmp_path / "d.png")).max() > 60


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1251"])
def test_a_terminal_that_is_not_utf8(url: str, folder: Path, encoding: str) -> None:
    (folder / "1.jpg").rename(folder / f"бутылка{'瓶' * 40}.jpg")
    done = _in_terminal(encoding, "detect", folder, "--model", "pets", "--url", url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"pictures 2" in done.stdout


def _in_terminal(encoding: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "detserve", *map(os.fsencode, map(str, arguments))]
    wide = {**os.environ, "COLUMNS": "200", "PYTHONIOENCODING": encoding}
    return subprocess.run(command, capture_output=True, check=False, timeout=120, env=wide)


def test_a_picture_without_a_suffix_beside_its_namesake(url: str, folder: Path, tmp_path: Path) -> None:
    (folder / "1.jpg").rename(folder / "photo")
    (folder / "sub/dog.png").rename(folder / "photo.jpg")
    done = detect(
        folder / "photo", folder / "photo.jpg", "--model", "pets", "--url", url, "--save", tmp_path / "out"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["photo-2.jpg", "photo.jpg"]
