"""Whole networks: equal to OpenCV's reading of the same files, and what the .cfg says is on the card."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.darknet import opencv
from tests.builder.darknet.random_weights import narrowed, resized, save_network
from tests.builder.darknet.tiny_cfg import conv, detector, section
from tests.builder.families.test_decoders import assert_same_rows
from tests.shared_data import DARKNET, YOLO_FASTEST, needs_shared

CFG = detector("")
ALL_CFGS = sorted(DARKNET.glob("cfg_only/*.cfg"))


@needs_shared
@pytest.mark.parametrize("path", ALL_CFGS, ids=lambda path: path.stem)
def test_a_published_cfg_gives_what_opencv_gives(tmp_path, path) -> None:
    """On 96x64 pictures and with an eighth of the filters, for speed; the layers are all there."""
    cfg = save_network(tmp_path, resized(narrowed(path.read_text(), 8), 96, 64))
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), np.uint8)
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


@needs_shared
def test_the_real_detector() -> None:
    checkpoint = load_checkpoint(str(YOLO_FASTEST))
    card = infer_card(checkpoint)
    assert (card.name, card.family, card.input_wh) == ("yolo-fastest-1_1-xl", "yolov3", (320, 320))
    assert (card.preprocess.resize.value, card.preprocess.color.value) == ("stretch", "rgb")
    assert card.preprocess.scale == pytest.approx(1 / 255)
    assert card.head["strides"] == [16, 32]
    assert card.head["anchors_wh_px"][0] == [[12, 18], [37, 49], [52, 132]]
    assert card.labels == (DARKNET / "coco.names").read_text().split("\n")[:80]
    # Scores near 0 come in another order in a batch: that is rounding, no mixing of pictures.
    assert prepare(checkpoint, card, probe_pictures(card)).batch_obstacle is None


def test_scale_mask_and_new_coordinates_are_on_the_card(tmp_path) -> None:
    cfg = CFG.replace("mask=0,1,2", "mask=2,0").replace("filters=18", "filters=12")
    cfg = cfg.replace("[yolo]", "[yolo]\nscale_x_y=1.1\nnew_coords=1")
    card = infer_card(load_checkpoint(str(save_network(tmp_path, cfg))))
    assert card.head == {
        "strides": [2],
        "anchors_wh_px": [[[14, 20], [5, 7]]],
        "scale_xy": [1.1],
        "new_coords": True,
    }
    assert card.labels == ["class_0"]


def test_letter_box_is_on_the_card(tmp_path) -> None:
    cfg = CFG.replace("[net]", "[net]\nletter_box=1")
    spec = infer_card(load_checkpoint(str(save_network(tmp_path, cfg)))).preprocess
    assert (spec.resize.value, spec.pad_value) == ("letterbox_center", 127)


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({}, "class_0"),
        ({"other.names": "qr\n\n"}, "qr"),
        ({"other.names": "a\nb\n"}, "class_0"),
        ({"other.names": "qr", "more.names": "bar"}, "class_0"),
        ({"other.names": "qr", "net.names": "own"}, "own"),
    ],
)
def test_labels_come_from_the_names_beside_it_that_fit(tmp_path, files, label) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert infer_card(load_checkpoint(str(save_network(tmp_path, CFG)))).labels == [label]


def test_the_weights_may_be_named_instead(tmp_path) -> None:
    cfg = save_network(tmp_path, CFG)
    by_cfg, by_weights = load_checkpoint(str(cfg)), load_checkpoint(str(cfg.with_suffix(".weights")))
    assert by_cfg.path == by_weights.path == cfg
    assert infer_card(by_cfg) == infer_card(by_weights)


@pytest.mark.parametrize(("given", "missing"), [("net.cfg", "net.weights"), ("net.weights", "net.cfg")])
def test_the_file_that_is_missing_beside_it_is_named(tmp_path, given, missing) -> None:
    save_network(tmp_path, CFG)
    (tmp_path / missing).unlink()
    with pytest.raises(BuildError) as caught:
        load_checkpoint(str(tmp_path / given))
    assert str(caught.value) == f"{tmp_path / missing}: no such file; {given} is read together with it"


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (CFG.replace("channels=3", "channels=1"), r"\[net\]: channels=1, expected 3"),
        (CFG.replace("width=40", "width=41"), "its map is 21x8, which does not divide the input of 41x16"),
        (CFG.replace("mask=0,1,2", "mask=0,1,3"), r"mask=\[0, 1, 3\], but anchors= gives 3"),
        (CFG.replace("classes=1", "classes=2"), "take 21 channels, the layer before it gives 18"),
        (CFG[: CFG.index("[yolo]")], r"no \[yolo\] section"),
        (CFG + CFG[CFG.index("[yolo]") :], "a second map of stride 2"),
        (
            CFG + conv(stride=2, filters=21) + section("yolo", anchors="1,1,2,2,3,3", num=3, classes=2),
            r"classes= or new_coords= differ from those of .*\[yolo\]",
        ),
    ],
)
def test_a_cfg_that_cannot_be_is_one_sentence(tmp_path, cfg, words) -> None:
    with pytest.raises(BuildError, match=words) as caught:
        load_checkpoint(str(save_network(tmp_path, cfg)))
    assert "\n" not in str(caught.value)


@needs_shared
@pytest.mark.parametrize("cfg", ALL_CFGS, ids=lambda path: path.stem)
def test_inspect_reads_a_cfg_without_its_weights(cfg) -> None:
    checkpoint = load_checkpoint(str(cfg), structure_only=True)
    assert checkpoint.sha256 == ""
    assert infer_card(checkpoint).family == "yolov3"
    with pytest.raises(BuildError, match="no such file"):
        load_checkpoint(str(cfg))
