"""A tiny network with a family's outputs, prepared and compared with a formula written in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.families.test_decoders import run_original
from tests.builder.tiny_networks import pictures, save_linear_network

Heads = Mapping[str, list[int]]
Formula = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]


# Heads of a few units: the usual preprocess would leave a tiny network's heads all but zero.
LIVELY = {"scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]}


class Tail:
    """Nodes behind a tiny network's heads, and what comes out of them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def node(self, op: str, inputs: list[str], *outputs: str, **attrs: Any) -> str:
        """Returns the name of the first output."""
        self.nodes.append(helper.make_node(op, inputs, outputs, f"{outputs[0]}_{op.lower()}", **attrs))
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def input(self, name: str, shape: list[int], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[int], dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, [1, *shape]))

    def save_behind(self, network: Path, path: Path) -> None:
        model = onnx.load(network)
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants)
        model.graph.input.extend(self.inputs)
        del model.graph.output[:]
        model.graph.output.extend(self.outputs)
        onnx.save(model, path)


def save_network(folder: Path, heads: Heads, tail: Tail | None = None, *, seed: int = 0) -> tuple[Path, Path]:
    """The network and, without its tail, the network that the formula is fed from."""
    base = save_linear_network(folder / "base.onnx", dict(heads), seed=seed)
    if tail is None:
        return base, base
    tail.save_behind(base, folder / "net.onnx")
    return folder / "net.onnx", base


def assert_decodes(
    folder: Path,
    heads: Heads,
    formula: Formula,
    *,
    family: str,
    batch: int,
    seed: int,
    card: dict[str, Any] | None = None,
    tail: Tail | None = None,
    named: bool = False,
) -> None:
    """The family is recognised, and its prepared graph gives what ``formula`` makes of the raw heads.

    ``formula`` returns boxes [A,4] and scores [A,C], or boxes, scores [A] and classes [A].
    """
    path, base = save_network(folder, heads, tail, seed=seed)
    said = dict(card or {}) | ({"family": family} if named else {})
    said["preprocess"] = {**LIVELY, **said.get("preprocess", {})}
    (folder / "said.json").write_text(json.dumps(said))
    checkpoint = load_checkpoint(str(path))
    inferred = infer_card(checkpoint, said=folder / "said.json")
    assert inferred.family == family
    prepared = prepare(checkpoint, inferred, pictures(2))
    assert prepared.batch_obstacle is None
    images = pictures(batch, seed=seed)
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": images})
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int32)
    for index, picture in enumerate(images):
        expected_boxes, expected, *said_classes = formula(run_original(base, inferred, picture))
        best = expected if said_classes else expected.max(1)
        assert len(expected_boxes) == inferred.candidates
        np.testing.assert_allclose(scores[index], -np.sort(-best), rtol=1e-4, atol=1e-5)
        per_class = one_hot(expected, said_classes[0], classes[index]) if said_classes else expected
        assert_same_detections(
            (boxes[index], scores[index], classes[index]), (expected_boxes, best, per_class)
        )


def one_hot(scores: np.ndarray, classes: np.ndarray, also: np.ndarray) -> np.ndarray:
    """Scores [A,C] of a network that says the class itself; the tiny ones say negative classes too."""
    columns = int(max(np.abs(classes).max(), np.abs(also).max())) + 1
    per_class = np.full((len(scores), 2 * columns), np.inf)
    per_class[np.arange(len(scores)), classes.astype(int)] = scores
    return per_class


def assert_same_detections(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    """Both sides hold the same anchors, in any order where scores are equal, with a class of the best score.

    ``got``: boxes, scores, classes. ``expected``: boxes, best scores, scores per class.
    """
    boxes, scores, classes = got
    expected_boxes, best, per_class = expected
    got_rows = np.column_stack([scores, boxes]).astype(np.float64)
    expected_rows = np.column_stack([best, expected_boxes]).astype(np.float64)
    distance = (np.abs(got_rows[:, None] - expected_rows[None]) / (1 + np.abs(expected_rows[None]))).max(-1)
    of_class = np.abs(per_class[:, classes].T - scores[:, None]) / (1 + np.abs(scores[:, None]))
    distance = np.maximum(distance, of_class)
    assert distance.min(1).max() < 1e-3
    assert distance.min(0).max() < 1e-3
