"""The code of the tutorials and of README does what the pages say.

Blocks marked ``bash`` or ``python`` run from top to bottom in one folder, as a reader would run them.
Blocks without a language need what a test does not have: a camera, Docker, the network. Sybil finds the
blocks and runs those of Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from detserve_core.machine.ports import choose_ports
from tests.client.video.clips import write_clip

CHECKOUT = Path(__file__).parents[2]


class Reader:
    """Runs pages in its folder, with free ports in place of the usual ones."""

    def __init__(self) -> None:
        ports = choose_ports({"grpc": None, "http": None, "metrics": None})
        named = " ".join(f"--{name}-port {port}" for name, port in ports.items())
        self.url = f"localhost:{ports['grpc']}"
        self.changes = {
            "detserve serve --repository": f"detserve serve {named} --repository",
            "detserve detect ": f"detserve detect --url grpc://{self.url} ",
        }

    def run(self, commands: str) -> None:
        for usual, changed in self.changes.items():
            commands = commands.replace(usual, changed)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], capture_output=True, text=True)
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"

    def page(self, name: str) -> int:
        """The number of blocks that ran."""
        page = Path("page.md")
        page.write_text((CHECKOUT / name).read_text().replace("localhost:8001", self.url))
        blocks = [CodeBlockParser("bash", self._bash), PythonCodeBlockParser()]
        examples = list(Sybil(parsers=blocks, pattern="*.md", path=".").parse(page).examples())
        for example in examples:
            example.evaluate()
        return len(examples)

    def _bash(self, example: Example) -> None:
        self.run(example.parsed)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """In a folder with an exported detector, photographs and a video, and with an empty cache."""
    for name, target in (("checkpoint.onnx", "best.onnx"), ("card.json", "card.json")):
        shutil.copy(CHECKOUT / "zoo/codes_yolo" / name, tmp_path / target)
    (tmp_path / "photos").mkdir()
    for number, target in ((2, "street.jpg"), (5, "yard.jpg")):
        shutil.copy(CHECKOUT / f"zoo/samples/scene_{number}.jpg", tmp_path / "photos" / target)
    write_clip(tmp_path / "clip.mp4", frames=12)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "absent")  # nothing is compiled; Triton's python backend serves
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    yield Reader()
    if (tmp_path / "cache/detserve/detached.lock").is_file():
        subprocess.run(["detserve", "serve", "--stop"], capture_output=True)


@pytest.mark.live
def test_first_detector(reader: Reader) -> None:
    assert reader.page("docs/tutorial/first-detector.md") == 11
    assert {path.name for path in Path("drawn").iterdir()} == {"street.jpg", "yard.jpg"}


@pytest.mark.live
def test_video(reader: Reader) -> None:
    reader.run("detserve build best.onnx --name shop --repository model_repository")
    reader.run("detserve serve --repository model_repository --detach")
    reader.run("detserve detect photos/ --model shop --json found.json")
    assert reader.page("docs/tutorial/video.md") == 3
    assert Path("drawn/clip.mp4").stat().st_size > 0


def test_production(reader: Reader) -> None:
    assert reader.page("docs/tutorial/production.md") == 1
    assert Path("state/gateway/nginx.conf").is_file()


@pytest.mark.live
def test_readme(reader: Reader) -> None:
    assert reader.page("README.md") == 2
