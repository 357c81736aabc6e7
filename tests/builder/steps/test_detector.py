"""The detector step on OpenVINO, with the committed network."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from detserve_builder.steps import detserve_detector
from detserve_builder.steps.detserve_detector import OUTPUTS, open_session

pytest.importorskip("openvino")
MODEL = Path(__file__).parents[3] / "model_repository/codes_yolo_pipeline/1/model.onnx"
IMAGES = np.random.default_rng(0).integers(0, 255, (4, 416, 416, 3), np.uint8)


def _open(callers: int) -> detserve_detector.Session:
    return open_session(str(MODEL), 1, runtime="openvino", callers=callers)


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(map(np.array_equal, one, other))


def test_what_a_run_gave_outlives_the_next_run() -> None:
    session = _open(1)
    first = session.run(OUTPUTS, {"images": IMAGES[:1]})
    kept = [values.copy() for values in first]
    assert not _same(session.run(OUTPUTS, {"images": IMAGES[1:2]}), kept)
    assert _same(first, kept)


def test_a_batch_gives_what_its_pictures_give_alone() -> None:
    session = _open(1)
    alone = [session.run(OUTPUTS, {"images": image[None]}) for image in IMAGES]
    together = session.run(OUTPUTS, {"images": IMAGES})
    assert [values.shape[0] for values in together] == [4, 4, 4]
    assert _same(together, [np.concatenate(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("order", ["read-only", "turned", "every other row"])
def test_pictures_may_lie_in_memory_as_they_like(order: str) -> None:
    image = IMAGES[:1].copy()
    if order == "read-only":
        image.setflags(write=False)
    elif order == "turned":
        image = np.asfortranarray(image)
    else:
        image = np.repeat(image, 2, axis=1)[:, ::2]
    session = _open(1)
    assert _same(session.run(OUTPUTS, {"images": image}), session.run(OUTPUTS, {"images": IMAGES[:1]}))


@pytest.mark.parametrize("memory", ["for each caller", "for one"])
def test_callers_do_not_get_each_others_answers(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if memory == "for one":
        monkeypatch.setattr(detserve_detector, "_MOST_BYTES", 2 * MODEL.stat().st_size)
    session = _open(3)
    expected = [session.run(OUTPUTS, {"images": image[None]}) for image in IMAGES]

    def ask(number: int) -> bool:
        return _same(session.run(OUTPUTS, {"images": IMAGES[number % 4][None]}), expected[number % 4])

    with ThreadPoolExecutor(4) as pool:  # one more than was said
        assert all(pool.map(ask, range(40)))


def test_the_network_runs_in_the_thread_that_calls() -> None:
    """Of the process's CPU time nearly all is the caller's own."""
    session = _open(2)
    session.run(OUTPUTS, {"images": IMAGES[:1]})
    process_s, own_s = time.process_time(), time.thread_time()
    for image in IMAGES:
        session.run(OUTPUTS, {"images": image[None]})
    assert time.thread_time() - own_s > 0.8 * (time.process_time() - process_s)
