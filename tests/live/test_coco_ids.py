"""What `detect --coco --coco-ids` writes is scored by pycocotools as the client's own evaluation scores."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from detserve_client import Client
from tests.command import detserve
from tests.live.conftest import DEFAULT, SAMPLES


def test_it_scores_as_the_evaluation_does(server, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = SAMPLES / "instances.json", tmp_path / "results.json"
    where = ("--url", server.grpc_url, "--model", DEFAULT)
    written = ("--coco", results, "--coco-ids", annotations, "--score", "0.001")
    done = detserve("detect", *sorted(SAMPLES.glob("*.jpg")), *where, *written)
    assert done.returncode == 0, done.stderr
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        scored = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        for step in (scored.evaluate, scored.accumulate, scored.summarize):
            step()
    with Client(server.grpc_url, DEFAULT) as client:
        expected = client.evaluate(annotations, SAMPLES)
    assert scored.stats[0] == pytest.approx(expected.ap, abs=1e-4)
    assert expected.ap > 0.5


def test_a_picture_of_another_data_set_is_refused_before_any_is_sent(tmp_path: Path) -> None:
    (tmp_path / "other.jpg").write_bytes(next(SAMPLES.glob("*.jpg")).read_bytes())
    ids = ("--coco", str(tmp_path / "r.json"), "--coco-ids", str(SAMPLES / "instances.json"))
    done = detserve("detect", tmp_path / "other.jpg", "--url", "grpc://127.0.0.1:1", *ids)
    assert done.returncode == 1
    assert "has no image 'other.jpg'" in done.stderr
