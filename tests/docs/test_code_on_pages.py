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
from contextlib import ExitStack
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from detserve_core.machine.ports import choose_ports
from detserve_server.triton.embedded import embedded_server
from tests.client.clips import write_clip

CHECKOUT = Path(__file__).parents[2]


def bash(commands: str) -> str:
    """What the commands print; they are those of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: an exported detector, photographs, a video."""
    for name, target in (("checkpoint.onnx", "best.onnx"), ("card.json", "card.json")):
        shutil.copy(CHECKOUT / "zoo/codes_yolo" / name, tmp_path / target)
    (tmp_path / "photos").mkdir()
    for number, target in ((2, "street.jpg"), (5, "yard.jpg")):
        shutil.copy(CHECKOUT / f"zoo/samples/scene_{number}.jpg", tmp_path / "photos" / target)
    write_clip(tmp_path / "clip.mp4", frames=12)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place: Path) -> Iterator[Runner]:
    """Runs pages; stops the server that a page started."""
    with ExitStack() as stack:
        yield Runner(stack)


class Runner:
    """Runs the blocks of a page, with ports of its own in place of 8001 and a server that the test stops."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.ports = choose_ports({"gRPC": None, "HTTP": None})
        self.url = f"localhost:{self.ports['gRPC']}"

    def page(self, name: str) -> int:
        """The number of blocks that ran."""
        text = (CHECKOUT / name).read_text()
        text = text.replace("localhost:8001", self.url)
        text = text.replace("detserve detect ", f"detserve detect --url grpc://{self.url} ")
        Path("page.md").write_text(text)
        blocks = [CodeBlockParser("bash", self.bash), PythonCodeBlockParser()]
        examples = list(Sybil(parsers=blocks, pattern="*.md", path=".").parse(Path("page.md")).examples())
        for example in examples:
            example.evaluate()
        return len(examples)

    def bash(self, example: Example) -> None:
        if example.parsed.startswith("detserve serve"):
            self.serve()
        else:
            bash(example.parsed)

    def serve(self) -> None:
        server = embedded_server(
            Path("repository"), grpc_port=self.ports["gRPC"], http_port=self.ports["HTTP"]
        )
        self.stack.enter_context(server)


@pytest.mark.live
def test_first_detector(run: Runner) -> None:
    assert run.page("docs/tutorial/first-detector.md") == 9
    assert {path.name for path in Path("drawn").iterdir()} == {"street.jpg", "yard.jpg"}


@pytest.mark.live
def test_video(run: Runner) -> None:
    bash("detserve build best.onnx --name shop --repository repository")
    run.serve()
    bash(f"detserve detect photos/ --model shop --url grpc://{run.url} --json found.json")
    assert run.page("docs/tutorial/video.md") == 3
    assert Path("drawn/clip.mp4").stat().st_size > 0


def test_production(run: Runner) -> None:
    assert run.page("docs/tutorial/production.md") == 1
    assert Path("state/gateway/nginx.conf").is_file()


@pytest.mark.live
def test_readme(run: Runner) -> None:
    assert run.page("README.md") == 1
