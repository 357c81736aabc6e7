"""The YOLO files of ../shared that exporters write today, or that are odd: read right, or refused."""

from __future__ import annotations

import pytest

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import read_card
from detserve_builder.preparation.prepare import prepare
from tests.shared_data import SHARED, needs_shared

pytestmark = needs_shared
TODAYS = SHARED / "models/todays"

BUILT = {
    "exported/fail_yolov8n_opset18": ("yolov8", 3, {}),
    "exported/fail_yolo26n_opset18": ("yolov8", 3, {}),
    "exported/fail_yolo26n_dynamic": ("yolov8", 3, {}),
    "exported/fail_yolo26n_fp16": ("yolov8", 3, {}),
    "exported/fail_yolo26n_pose": ("yolov8", 80, {"columns_behind": 51}),
    "exported/fail_yolo26n_inverted": ("end_to_end", 3, {"boxes": "xyxy_px"}),
    "exported/fp16_sorted_f32io": ("end_to_end", 3, {"boxes": "xyxy_px"}),
    "exported/fp16_sorted_f16io": ("end_to_end", 3, {"boxes": "xyxy_px"}),
    "exported/yolox_decoded": ("yolox", 3, {"decoded": True}),
    "exported/yolox_decoded_dyn": ("yolox", 3, {"decoded": True}),
    "exported/yolox_dynamo": ("yolox", 3, {"decoded": False}),
    "exported/hand_ext": ("yolov8", 3, {"strides": [8]}),
    "odd/v8_pose_bare": ("yolov8", 1, {"columns_behind": 51}),
    "odd/v8_pose_meta": ("yolov8", 1, {"columns_behind": 51}),
    "odd/v8_tr": ("yolov8", 80, {"strides": [8, 16, 32]}),
    "odd/v8_odd": ("yolov8", 3, {"strides": [8, 16, 32]}),
    "odd/v8_rect": ("yolov8", 3, {"strides": [8, 16, 32]}),
    "odd/v8_one": ("yolov8", 1, {}),
    "odd/ds_v5": ("end_to_end", 6, {"detections": 1008}),
    "odd/v5_op18": ("end_to_end", 6, {"detections": 1008}),
    "odd/e2e_op22": ("end_to_end", 1, {"detections": 20}),
}
REFUSED = {
    "exported/fail_yolo26n_obb": "Ultralytics obb",
    "odd/v8_obb_meta": "Ultralytics obb",
    "odd/v8_obb_bare": "YOLO obb",
}
LABELS = {
    "v8_jsonnames": (["cat", "dog", "cow"], ""),
    "v8_listnames": (["cat", "dog", "cow"], ""),
    "v8_gapnames": (["cat", "dog", "cow"], ""),
    "v8_numnames": (["class_0", "class_1", "class_2"], "only the class numbers"),
    "v8_morenames": (["class_0", "class_1", "class_2"], "5 names, numbers 0 to 4, do not fit the 3 classes"),
}


@pytest.mark.parametrize("name", BUILT)
def test_it_is_read_and_built(name) -> None:
    family, num_labels, head = BUILT[name]
    checkpoint = load_checkpoint(str(TODAYS / f"{name}.onnx"))
    card = read_card(checkpoint).card
    assert (card.family, len(card.labels)) == (family, num_labels)
    assert {field: card.head[field] for field in head} == head
    prepared = prepare(checkpoint, card, probe_pictures(card))  # equal to the file's own outputs
    assert not name.startswith("odd/") or prepared.batch_obstacle is None


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name) -> None:
    with pytest.raises(BuildError, match=REFUSED[name]):
        read_card(load_checkpoint(str(TODAYS / f"{name}.onnx")))


@pytest.mark.parametrize("name", LABELS)
def test_its_names_are_used_or_it_is_said_why_not(name) -> None:
    labels, why_not = LABELS[name]
    read = read_card(load_checkpoint(str(TODAYS / f"odd/{name}.onnx")))
    assert read.card.labels == labels
    assert why_not in read.guesses.get("labels", "")
    assert ("labels" in read.guesses) == bool(why_not)


def test_eighty_classes_without_names_are_a_guess() -> None:
    read = read_card(load_checkpoint(str(TODAYS / "odd/v8_80custom.onnx")))
    assert read.card.labels[0] == "person"
    assert "labels" in read.guesses
