"""FastestDet's one map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builder.families.harness import Tail, assert_decodes
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

NUM_CLASSES, SIDE = 3, 4
HEADS = {"objectness": [1, SIDE, SIDE], "box": [4, SIDE, SIDE], "classes": [NUM_CLASSES, SIDE, SIDE]}


def published_head() -> Tail:
    tail = Tail()
    tail.node("Sigmoid", ["objectness"], "activated")
    tail.node("Softmax", ["classes"], "probabilities", axis=1)
    tail.node("Concat", ["activated", "box", "probabilities"], "output", axis=1)
    tail.output("output", [5 + NUM_CLASSES, SIDE, SIDE])
    return tail


def formula(heads):
    """handle_preds of the official code, cell by cell."""
    boxes, scores = [], []
    for y in range(SIDE):
        for x in range(SIDE):
            tx, ty, tw, th = heads["box"][:, y, x].astype(np.float64)
            cx, cy = (x + np.tanh(tx)) / SIDE * SIDE_PX, (y + np.tanh(ty)) / SIDE * SIDE_PX
            w, h = sigmoid(tw) * SIDE_PX, sigmoid(th) * SIDE_PX
            boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
            exponentials = np.exp(heads["classes"][:, y, x])
            probabilities = exponentials / exponentials.sum()
            scores.append(sigmoid(heads["objectness"][0, y, x]) ** 0.6 * probabilities**0.4)
    return np.array(boxes), np.array(scores)


@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_map(tmp_path_factory, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        HEADS,
        formula,
        family="fastestdet",
        batch=batch,
        seed=seed,
        tail=published_head(),
    )
