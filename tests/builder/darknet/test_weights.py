"""The bytes of a .weights file are accounted for to the last one."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import onnx
import pytest

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from tests.builder.darknet.random_weights import random_values, save_network
from tests.builder.darknet.tiny_cfg import conv, detector
from tests.shared_data import DARKNET, needs_shared

CFG = detector(conv(batch_normalize=1, activation="leaky"))
SIZE_BYTES = 20 + 4 * len(random_values(CFG))


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (1, 0)])
def test_seen_takes_32_bits_before_version_0_2_and_64_after(tmp_path, version) -> None:
    model = load_checkpoint(str(save_network(tmp_path, CFG, version=version))).model
    (tail,) = (node for node in model.graph.node if node.name.startswith("convolutional_2/"))
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    bias, kernel = (onnx.numpy_helper.to_array(weights[tail.input[index]]) for index in (2, 1))
    np.testing.assert_array_equal(
        np.concatenate([bias, kernel.ravel()]), random_values(CFG)[-len(bias) * 9 :]
    )


@pytest.mark.parametrize(
    ("change", "what", "got"),
    [
        (lambda content: content[:-1], "truncated", SIZE_BYTES - 1),
        (lambda content: content[:20], "truncated", 20),
        (lambda content: content[: SIZE_BYTES // 2], "truncated", SIZE_BYTES // 2),
        (lambda content: content + b"\0", "too long", SIZE_BYTES + 1),
        (lambda content: content + content, "too long", 2 * SIZE_BYTES),
    ],
)
def test_a_file_of_another_size_is_refused_with_both_counts(tmp_path, change, what, got) -> None:
    cfg = save_network(tmp_path, CFG)
    weights = cfg.with_suffix(".weights")
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(BuildError) as caught:
        load_checkpoint(str(cfg))
    assert str(caught.value) == (
        f"{weights}: {what}, or weights of another network: net.cfg takes {SIZE_BYTES} bytes, "
        f"the file has {got}"
    )


@pytest.mark.parametrize("content", [b"", b"\0" * 15])
def test_a_file_shorter_than_its_header(tmp_path, content) -> None:
    cfg = save_network(tmp_path, CFG)
    cfg.with_suffix(".weights").write_bytes(content)
    with pytest.raises(
        BuildError, match=f"a Darknet header takes 16 or 20 bytes, the file has {len(content)}"
    ):
        load_checkpoint(str(cfg))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_name_the_layer(tmp_path, value) -> None:
    cfg = save_network(tmp_path, CFG)
    weights = cfg.with_suffix(".weights")
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", value))
    damaged = r"damaged: the weights for .*net.cfg line \d+: \[convolutional\] are not finite numbers"
    with pytest.raises(BuildError, match=damaged):
        load_checkpoint(str(cfg))


def test_a_cfg_that_asks_for_more_than_any_memory_holds(tmp_path) -> None:
    cfg = save_network(tmp_path, CFG)
    cfg.write_text(CFG.replace("filters=8", "filters=800000000"))
    with pytest.raises(BuildError, match="truncated"):
        load_checkpoint(str(cfg))


@needs_shared
@pytest.mark.parametrize(
    ("name", "published_bytes"),
    [
        ("yolov3", 248_007_048),
        ("yolov3-tiny", 35_434_956),
        ("yolov3-spp", 252_209_544),
        ("yolov4", 257_717_640),
        ("yolov4-tiny", 24_251_276),
        ("yolov4-csp", 211_944_840),
    ],
)
def test_the_published_weights_have_the_size_their_cfg_asks_for(tmp_path, name, published_bytes) -> None:
    shutil.copy(DARKNET / "cfg_only" / f"{name}.cfg", tmp_path)
    (tmp_path / f"{name}.weights").write_bytes(struct.pack("<3iq", 0, 2, 5, 0))
    with pytest.raises(BuildError, match=f"takes {published_bytes} bytes, the file has 20"):
        load_checkpoint(str(tmp_path / f"{name}.cfg"))
