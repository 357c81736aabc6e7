"""The OpenAPI document against the running service: schemathesis sends what it allows and what not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.live.rest.rest_server import Rest

CHECKOUT = Path(__file__).parents[3]
# A form is made of random texts, which are no pictures; and a detector may allow fewer than 1000 detections.
CONFIGURATION = """
[[operations]]
include-method = "POST"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "422"]
"""


@pytest.mark.slow
def test_schemathesis_finds_no_failure(rest: Rest, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml")]
    command += ["run", f"{rest.url}/v1/openapi.json", "--max-examples", "25", "--seed", "1", "--no-color"]
    command += ["--report-har-path", str(tmp_path / "sent.har")]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.live.rest.schemathesis_hooks", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, **hooks}
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    sent = json.loads((tmp_path / "sent.har").read_text())["log"]["entries"]
    answered = Counter(
        entry["response"]["status"]
        for entry in sent
        if entry["request"]["url"].partition("?")[0].endswith("detect")
    )
    assert answered[200] > 10, "pictures that were accepted are among what was checked"
    assert answered[400] > 10
    assert "Traceback" not in rest.log.read_text()
