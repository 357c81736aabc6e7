"""The programs of ``examples/`` that are no demo, run as a reader would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.client.video.clips import write_clip

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str, *arguments: object) -> list[str]:
    command = [sys.executable, EXAMPLES / example, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_count() -> None:
    lines = run("count.py")
    assert lines[0] == "scene_1.jpg: 1 qr"
    assert len(lines) == 8
    assert not any("nothing" in line for line in lines)


def test_track(tmp_path: Path) -> None:
    lines = run("track.py", write_clip(tmp_path / "clip.mp4", frames=100))
    found = {line.split()[1] for line in lines}
    assert "qr" in found
    assert all(float(line.split()[2]) <= float(line.split()[4]) for line in lines)
