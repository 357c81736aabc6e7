"""``detserve demo``, and the check that comes before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from detserve.command import app
from detserve.demo import DEFAULT_MODEL
from tests.live.conftest import CHECKOUT


def test_the_demo_draws_what_it_finds(tmp_path: Path, sample: Path) -> None:
    run = CliRunner().invoke(app, ["demo", str(sample), "--output", str(tmp_path)], env={"COLUMNS": "80"})
    assert run.exit_code == 0, run.output
    assert (tmp_path / DEFAULT_MODEL / sample.name).is_file()
    found = json.loads((tmp_path / "detections.json").read_text())[DEFAULT_MODEL][sample.name]
    assert f"{found[0]['label']} {found[0]['score']:.2f}" in run.output


def needs(python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "examples/needs.sh", python], cwd=CHECKOUT, capture_output=True, text=True)


def test_what_a_machine_lacks_is_one_line_to_paste() -> None:
    assert needs(sys.executable).returncode == 0
    absent = needs("no-such-python")
    assert absent.returncode == 1
    assert absent.stderr.splitlines()[1].startswith("    apt-get update && apt-get install -y python3-venv ")
