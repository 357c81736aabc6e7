"""Everything a build emits for TensorRT, of every detector there is, through NVIDIA's own compiler.

The prepared graphs are compiled for every compute capability; what is made of them for the oldest and the
newest alone, and the combinations for one (sparse kernels begin at 8.0), to keep the time within two minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.graph.network import named_nodes
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_builder.prune.channels_graph import coupling
from detserve_builder.prune.channels_removal import without_channels
from detserve_builder.prune.weights import fits_two_in_four, prune
from detserve_builder.quantise.calibration import CalibrationSource, calibration_source
from detserve_builder.quantise.fp16 import convertible_nodes, to_half
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, ranges
from detserve_builder.quantise.statistics import measure
from detserve_builder.tensorrt.compile_gate import COMPUTE_CAPABILITIES, compile_ahead_of_time
from tests.builder.tensorrt.rtx import needs_rtx
from tests.shared_data import FASTESTDET, SHARED, YOLO_FASTEST, YOLOX, needs_shared
from tests.ssd_checkpoints import save_ssd_checkpoints

PICTURES = sorted((Path(__file__).parents[3] / "zoo/samples").glob("*.jpg"))[:4]
ZOO = ("codes_yolo", "codes_ssd", "codes_rcnn")
PLAIN = {"yolox": YOLOX, "fastestdet": FASTESTDET, "yolo_fastest": YOLO_FASTEST}
SSDS = ("ssd_mobilenet", "ssd_mobilenet_raw", "ultraface", "ultraface_raw")
OLDEST_AND_NEWEST = (COMPUTE_CAPABILITIES[0], COMPUTE_CAPABILITIES[-1])

#: Per detector: how many nodes of which operator TensorRT has and TensorRT-RTX has not.
LEFT_OUT = {"codes_rcnn": {"NonZero": 7, "If around NonMaxSuppression": 2, "RoiAlign": 3}}
#: Detectors with fully connected layers, which TensorRT-RTX has in fp32 from Ampere on only.
FP32_GEMM = {"codes_rcnn"}

Network = tuple[onnx.ModelProto, CalibrationSource]


def as_it_is(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    return model


def half(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    return to_half(model, convertible_nodes(model))


def int8(model: onnx.ModelProto, source: CalibrationSource, *, heads: bool = False) -> onnx.ModelProto:
    nodes = quantisable_nodes(model, Form.TENSORRT, heads=heads)
    statistics = measure(model, measured_tensors(model, nodes), source)
    found = ranges(statistics, Method.MIN_MAX, symmetric=True)
    return quantise(model, found, nodes, Form.TENSORRT)


def int8_heads(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    return int8(model, source, heads=True)


def sparse(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    return prune(model, "2:4", quantisable_nodes(model, Form.TENSORRT), source)[0]


def sparse_half(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    return half(sparse(model, source), source)


def sparse_int8(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    return int8(sparse(model, source), source)


def fewer_channels(model: onnx.ModelProto, source: CalibrationSource) -> onnx.ModelProto:
    """A quarter of every group is gone: for the graph it is all the same which."""
    coupled = coupling(model)
    gone = {int(one) for group in coupled.groups for one in group.channels[: len(group.channels) // 4]}
    assert gone
    return without_channels(model, coupled, gone)


EMITTED: dict[Callable[[onnx.ModelProto, CalibrationSource], onnx.ModelProto], tuple[str, ...]] = {
    as_it_is: COMPUTE_CAPABILITIES,
    half: OLDEST_AND_NEWEST,
    int8: OLDEST_AND_NEWEST,
    int8_heads: ("8.9",),
    sparse: ("8.0",),
    fewer_channels: ("8.9",),
    sparse_half: ("8.9",),
    sparse_int8: ("8.9",),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Network]:
    """Prepared graph and calibration pictures of a detector by its name, made once."""

    @cache
    def ssds() -> dict[str, tuple[Path, Path]]:
        return save_ssd_checkpoints(tmp_path_factory.mktemp("ssd"))

    @cache
    def made(name: str) -> Network:
        path, said = ssds()[name] if name in SSDS else (PLAIN.get(name, name), None)
        checkpoint = load_checkpoint(str(path))
        card = infer_card(checkpoint, name=name, said=said)
        model = prepare(checkpoint, card, probe_pictures(card)).model
        return named_nodes(model), calibration_source(PICTURES, card)

    return made


def convolutions(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights [out,in,h,w] of the convolutions that mix channels, behind their Q/DQ or cast."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}

    def constant(name: str) -> np.ndarray:
        while name not in constants:
            name = makers[name].input[0]
        return numpy_helper.to_array(constants[name])

    mixing = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and all(a.i == 1 for a in node.attribute if a.name == "group")
    ]
    return {node.name: constant(node.input[1]) for node in mixing}


def is_two_in_four(weight: np.ndarray) -> bool:
    if weight.shape[1] % 4:
        return False
    fours = weight.reshape(weight.shape[0], -1, 4, *weight.shape[2:])
    return bool(((fours != 0).sum(axis=2) <= 2).all())


#: Every form of the first one is quick enough for ``make test``.
detectors = pytest.mark.parametrize(
    "detector",
    [
        ZOO[0],
        *(pytest.param(name, marks=pytest.mark.slow) for name in ZOO[1:]),
        *(pytest.param(name, marks=[pytest.mark.slow, needs_shared]) for name in (*PLAIN, *SSDS)),
    ],
)


@needs_rtx
@detectors
@pytest.mark.parametrize("emitted", EMITTED, ids=lambda emitted: emitted.__name__)
def test_the_compiler_takes_it(network, detector: str, emitted) -> None:
    model = emitted(*network(detector))
    gate = compile_ahead_of_time(
        model,
        where=detector,
        sparse_weights=emitted.__name__.startswith("sparse"),
        compute_capabilities=EMITTED[emitted],
    )
    lacking = Counter(kind(line) for line in gate.left_out if not line.startswith("compute capability"))
    assert lacking == LEFT_OUT.get(detector, {})
    compiled = set(EMITTED[emitted])
    if detector in FP32_GEMM and emitted is not half:
        compiled -= {"7.5"}
    assert {one.compute_capability for one in gate.compiled} == compiled


def kind(left_out: str) -> str:
    """ "If 'If_12' around NonMaxSuppression" without the node's name."""
    operator, _, rest = left_out.partition(" '")
    return operator + rest.partition("'")[2]


@detectors
@pytest.mark.parametrize("emitted", [sparse, sparse_half, sparse_int8], ids=lambda made: made.__name__)
def test_two_in_four_is_in_what_is_emitted(network, detector: str, emitted) -> None:
    model, source = network(detector)
    inner = set(quantisable_nodes(model, Form.TENSORRT))
    weights = convolutions(emitted(model, source))
    fitting = {name for name, weight in weights.items() if name in inner and fits_two_in_four(weight)}
    assert fitting
    assert {name for name, weight in weights.items() if is_two_in_four(weight)} == fitting


@needs_shared
def test_no_detector_of_shared_is_forgotten() -> None:
    """A checkpoint that is added there is to be named here."""
    found = {path.stem for path in (SHARED / "models").glob("*/*.onnx")}
    found |= {path.stem for path in (SHARED / "models").glob("*/*.weights")}
    found |= {path.name.removesuffix(".onnx.xz") for path in (SHARED / "models").glob("*/*.xz")}
    known = {path.stem for path in PLAIN.values()}
    assert found == known | {"ssd_mobilenet_v1_coco", "ultraface-RFB-320", "ultraface-RFB-320_raw-loc"}
