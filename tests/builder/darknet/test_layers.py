"""Every layer gives what OpenCV's Darknet reader gives; what that one does not read, a formula in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.darknet import opencv
from tests.builder.darknet.random_weights import random_values, save_network
from tests.builder.darknet.tiny_cfg import HEIGHT, WIDTH, conv, detector, section
from tests.builder.families.test_decoders import assert_same_rows

HALVE = section("maxpool", size=2, stride=2)
SQUEEZE = section("avgpool") + conv(size=1, activation="logistic")
READ_BY_OPENCV = {
    **{name: conv(activation=name, batch_normalize=1) for name in ("linear", "leaky", "relu", "mish")},
    **{name: conv(activation=name, batch_normalize=1) for name in ("swish", "logistic", "tanh")},
    "groups": conv(groups=4),
    "depthwise": conv(groups=8, batch_normalize=1),
    "padding": conv(pad=0, padding=1, size=4, stride=2),
    "no padding": conv(pad=0, size=2, stride=2),
    "maxpool 2/2": HALVE,
    "maxpool 2/1": section("maxpool", size=2, stride=1),
    "maxpool 3/2": section("maxpool", size=3, stride=2),
    "maxpool padding": section("maxpool", size=2, stride=2, padding=0),
    "spp": section("maxpool", size=5, stride=1)
    + section("route", layers=-2)
    + section("maxpool", size=9, stride=1)
    + section("route", layers="-1,-3,0"),
    "upsample": HALVE + section("upsample", stride=2),
    "shortcut": conv() + section("shortcut", **{"from": -2, "activation": "leaky"}),
    "shortcut from more channels": conv(filters=4) + section("shortcut", **{"from": -2}),
    "shortcut from fewer channels": conv(filters=12) + section("shortcut", **{"from": -2}),
    "route": conv(filters=4) + section("route", layers="-1,0"),
    "route to a half": section("route", layers=-1, groups=2, group_id=1),
    "reorg": section("reorg", stride=2),
    "sam": conv(activation="logistic") + section("sam", **{"from": -2}),
    "scale_channels": SQUEEZE + section("scale_channels", **{"from": -3}),
    "scale_channels leaky": SQUEEZE + section("scale_channels", **{"from": -3, "activation": "leaky"}),
    "dropout": section("dropout", probability=0.2),
}


@pytest.mark.parametrize("name", READ_BY_OPENCV)
def test_a_layer_gives_what_opencv_gives(tmp_path, name) -> None:
    cfg = save_network(tmp_path, detector(READ_BY_OPENCV[name]))
    images = np.random.default_rng(1).integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)
    checkpoint = load_checkpoint(str(cfg))
    prepared = prepare(checkpoint, infer_card(checkpoint), images)
    assert prepared.batch_obstacle is None
    session = ort.InferenceSession(prepared.model.SerializeToString())
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": images})
    for index, image in enumerate(images):
        expected_boxes, expected = opencv.rows(cfg, image)
        assert_same_rows(
            (boxes[index], scores[index], classes[index]),
            (expected_boxes, expected.max(1), expected.argmax(1)),
        )


Layers = dict[str, np.ndarray]


def dilated(of: Layers) -> np.ndarray:
    given = np.pad(of["convolutional_0"], ((0, 0), (2, 2), (2, 2)))
    values = random_values(BY_FORMULA["dilation"][0])
    start = 4 * 8 + 8 * 27
    bias, kernel = values[start : start + 8], values[start + 8 : start + 8 + 8 * 8 * 9].reshape(8, 8, 3, 3)
    height, width = of["convolutional_0"].shape[1:]
    windows = [
        np.einsum("fc,chw->fhw", kernel[:, :, y, x], given[:, 2 * y : 2 * y + height, 2 * x : 2 * x + width])
        for y, x in np.ndindex(3, 3)
    ]
    return np.sum(windows, axis=0) + bias[:, None, None]


def blocks_to_channels(of: Layers) -> np.ndarray:
    given = of["convolutional_0"]
    return np.concatenate([given[:, y::2, x::2] for y, x in np.ndindex(2, 2)])


def upsampled(of: Layers) -> np.ndarray:
    return 0.5 * of["maxpool_1"].repeat(2, axis=1).repeat(2, axis=2)


BY_FORMULA: dict[str, tuple[str, str, Callable[[Layers], np.ndarray]]] = {
    "dilation": (detector(conv(dilation=2)), "convolutional_1", dilated),
    "relu6": (
        detector(conv() + section("shortcut", **{"from": -2, "activation": "relu6"})),
        "shortcut_2",
        lambda of: np.clip(of["convolutional_1"] + of["convolutional_0"], 0, 6),
    ),
    "elu": (
        detector(conv() + section("shortcut", **{"from": -2, "activation": "elu"})),
        "shortcut_2",
        lambda of: (lambda x: np.where(x > 0, x, np.exp(x) - 1))(
            of["convolutional_1"] + of["convolutional_0"]
        ),
    ),
    "upsample scale": (
        detector(HALVE + section("upsample", stride=2, scale=0.5)),
        "upsample_2",
        upsampled,
    ),
    "shortcut from two": (
        detector(conv() + conv(filters=4) + section("shortcut", **{"from": "-2,0"})),
        "shortcut_3",
        lambda of: of["convolutional_2"] + of["convolutional_1"][:4] + of["convolutional_0"][:4],
    ),
    "route to halves of two": (
        detector(conv() + section("route", layers="-1,-2", groups=2, group_id=1)),
        "route_2",
        lambda of: np.concatenate([of["convolutional_1"][4:], of["convolutional_0"][4:]]),
    ),
    "reorg3d": (detector(section("reorg3d", stride=2)), "reorg3d_1", blocks_to_channels),
    "scale_channels per pixel": (
        detector(conv(filters=1) + section("scale_channels", **{"from": -2, "scale_wh": 1})),
        "scale_channels_2",
        lambda of: of["convolutional_1"] * of["convolutional_0"],
    ),
}


@pytest.mark.parametrize("name", BY_FORMULA)
def test_a_layer_gives_what_its_formula_gives(tmp_path, name) -> None:
    cfg, layer, formula = BY_FORMULA[name]
    of = layer_outputs(load_checkpoint(str(save_network(tmp_path, cfg))).model)
    np.testing.assert_allclose(of[layer], formula(of), rtol=1e-4, atol=1e-5)


def layer_outputs(model: onnx.ModelProto) -> Layers:
    """Every layer's output [c,h,w] on one random picture, by the layer's name."""
    last_of = {node.name.partition("/")[0]: node.output[0] for node in model.graph.node}
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in {*last_of.values()} - known)
    session = ort.InferenceSession(model.SerializeToString())
    image = np.random.default_rng(1).random((1, 3, HEIGHT, WIDTH), np.float32)
    return {layer: session.run([tensor], {"images": image})[0][0] for layer, tensor in last_of.items()}


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (section("gru"), r"line 12: \[gru\] is not supported; known are \[convolutional\]"),
        (section("region"), r"\[region\] is not supported"),
        (
            conv(activation="gelu"),
            r"line 12: \[convolutional\]: activation=gelu is not known; known are linear",
        ),
        (conv(groups=3), "groups=3 does not divide 8 channels, 8 filters"),
        (conv(filters=0), "filters=0, expected at least 1"),
        (conv(size=99, pad=0), "a window of 99 pixels on a map of 8"),
        (conv(xnor=1), "xnor=1 is not supported"),
        (section("shortcut", **{"from": -9}), r"\[shortcut\]: takes layer -9, but is itself layer 1"),
        (section("shortcut", **{"from": 1}), "takes layer 1, but is itself layer 1"),
        (HALVE + section("shortcut", **{"from": 0}), r"adds 20x8x8 \(layer 0\) to 10x4x8"),
        (
            section("shortcut", **{"from": 0, "weights_type": "per_feature"}),
            "weights_type=per_feature is not",
        ),
        (HALVE + section("route", layers="0,1"), "joins 20x8x8 and 10x4x8"),
        (section("route", layers=0, groups=3), "8 channels have no part 0 of 3"),
        (section("route", layers=0, groups=2, group_id=2), "8 channels have no part 2 of 2"),
        (section("route"), "layers= is missing"),
        (section("reorg", stride=3), "8 channels are no multiple of 3²"),
        (section("reorg3d", stride=3), "stride 3 does not divide 20x8"),
        (HALVE + section("sam", **{"from": 0}), "multiplies 20x8x8 with 10x4x8"),
        (section("scale_channels", **{"from": 0}), "scales 20x8x8 by 20x8x8"),
    ],
)
def test_what_cannot_be_is_one_sentence_naming_the_section(tmp_path, middle, words) -> None:
    cfg = tmp_path / "net.cfg"
    cfg.write_text(detector(middle))
    cfg.with_suffix(".weights").write_bytes(b"\0" * 16)
    with pytest.raises(BuildError, match=words) as caught:
        load_checkpoint(str(cfg))
    assert "\n" not in str(caught.value)
