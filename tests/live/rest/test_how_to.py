"""The commands of docs/how-to/rest.md do what the page says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.live.rest.rest_server import Rest

PAGE = Path(__file__).parents[3] / "docs/how-to/rest.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")
def test_the_commands_of_the_page(rest: Rest, sample: Path, tmp_path: Path) -> None:
    shutil.copy(sample, tmp_path / "street.jpg")
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    said = []
    for block in blocks:
        script = block.replace("localhost:8080", f"127.0.0.1:{rest.port}").replace(
            "curl ", "curl -sS --fail "
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        said.append(done.stdout)
    assert json.loads(said[0])["detections"]
    assert said[1].count('"detections":[{') == 2
    assert cv2.imread(str(tmp_path / "drawn.jpg")) is not None
    assert json.loads((tmp_path / "instances.json").read_text())["annotations"]
    assert (tmp_path / "street.txt").read_text().count("\n") > 0
    assert '"ready":true' in said[3]
    assert json.loads(said[4])["success"] is True
