"""CONTRIBUTING's walk through adding a family, done as it says, on a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tests.builder.families.harness import Tail, save_network
from tests.builder.tiny_networks import pictures

CHECKOUT = Path(__file__).parents[2]


def test_a_family_is_one_file_and_one_registration(tmp_path) -> None:
    shutil.copytree(CHECKOUT / "builder/detserve_builder", tmp_path / "src/detserve_builder")
    families = tmp_path / "src/detserve_builder/families"
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    (families / "boxnet.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    init = (families / "__init__.py").read_text()
    init = init.replace("families import ", "families import boxnet, ", 1)
    init = init.replace("= (", "= (\n    boxnet.FAMILY,", 1)
    (families / "__init__.py").write_text(init)

    tail = Tail()
    tail.output(tail.node("Sigmoid", ["raw"], "boxnet"), [30, 4 + 3])
    network, _ = save_network(tmp_path, {"raw": [30, 4 + 3]}, tail)
    command = [sys.executable, "-m", "detserve.command", "build", str(network)]
    done = subprocess.run(
        [*command, "--name", "mine", "--repository", str(tmp_path / "repository")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    session = ort.InferenceSession(tmp_path / "repository/mine_pipeline/1/model.onnx")
    images = pictures(1)
    boxes, scores, _ = session.run(["boxes", "scores", "classes"], {"images": images})
    raw = ort.InferenceSession(network).run(
        None, {"images": (images / np.float32(255)).astype(np.float32).transpose(0, 3, 1, 2)}
    )[0][0]
    best = raw[:, 4:].max(1)
    order = np.argsort(-best)
    np.testing.assert_allclose(scores[0], best[order], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(boxes[0], raw[order, :4] * 64, rtol=1e-4, atol=1e-4)
