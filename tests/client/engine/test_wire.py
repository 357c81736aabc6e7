from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from detserve_client import Card, ContractViolation, Detections, RequestRejected
from detserve_client.engine.wire import (
    card_of,
    config_with,
    decode,
    padded_outputs,
    picture_tensor,
    request_parameters,
)
from tests.core.test_detections import detections


@given(detections())
def test_decode_inverts_padding(found: Detections) -> None:
    outputs = padded_outputs(found, rows=8)
    (decoded,) = decode(outputs, model="pets", names=found.names)
    assert sorted(decoded) == sorted(found)
    assert (np.diff(decoded.scores) <= 0).all()


def test_padding_keeps_the_best(found: Detections) -> None:
    outputs = padded_outputs(found, rows=1)
    assert outputs["scores"].tolist() == [[pytest.approx(0.86)]]


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("boxes", None, "output boxes is missing; it has num_detections, scores, classes"),
        ("boxes", np.zeros((1, 5, 4)), r"boxes is float64 \[1, 5, 4\]; expected float32 \[1, 5, 4\]"),
        ("boxes", np.zeros((5, 4), np.float32), r"boxes is float32 \[5, 4\]; expected float32 \[1, 5, 4\]"),
        ("num_detections", np.zeros((), np.int32), r"num_detections is int32 \[\]; expected int32 \[1, 1\]"),
        ("scores", np.zeros((), np.float32), "breaks the contract"),
        ("scores", np.zeros((2, 5), np.float32), r"expected float32 \[1, 5\]"),
        ("classes", np.zeros((1, 4), np.int32), r"classes is int32 \[1, 4\]; expected int32 \[1, 5\]"),
        ("num_detections", np.array([[6]], np.int32), "num_detections is 6; expected 0 to 5"),
        ("num_detections", np.array([[-1]], np.int32), "num_detections is -1"),
        ("num_detections", np.array([[5]], np.int32), "classes holds -1 to 1"),
        ("scores", np.array([[0.2, 0.3, 0, 0, 0]], np.float32), "not in descending order"),
        ("boxes", np.full((1, 5, 4), np.inf, np.float32), "not finite"),
        ("classes", np.full((1, 5), 80, np.int32), "classes holds 80 to 80; expected 0 to 2"),
    ],
)
def test_an_answer_that_breaks_the_contract(
    found: Detections, name: str, tensor: np.ndarray[Any, Any] | None, sentence: str
) -> None:
    outputs = padded_outputs(found, rows=5)
    if tensor is None:
        del outputs[name]
    else:
        outputs[name] = tensor
    with pytest.raises(ContractViolation, match="the answer of model 'pets' breaks the contract: ") as caught:
        decode(outputs, model="pets", names=found.names)
    assert caught.match(sentence)


def test_parameters_leave_out_what_is_not_given() -> None:
    assert request_parameters(None, None, None) == {}
    assert request_parameters(0, 1, 3) == {"score_threshold": 0.0, "iou_threshold": 1.0, "max_detections": 3}
    assert isinstance(request_parameters(0, None, None)["score_threshold"], float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((1.5, None, None), "score_threshold is 1.5; expected 0 to 1"),
        ((math.nan, None, None), "score_threshold is nan"),
        ((None, -0.1, None), "iou_threshold is -0.1; expected 0 to 1"),
        ((None, None, 0), "max_detections is 0; expected 1 or more"),
        ((None, None, 2.5), "max_detections is 2.5; expected a whole number"),
    ],
)
def test_parameters_out_of_range(values: tuple[Any, Any, Any], sentence: str) -> None:
    with pytest.raises(RequestRejected, match=sentence):
        request_parameters(*values)


def test_picture_tensor_keeps_null_bytes() -> None:
    assert picture_tensor([b"\xff\xd8\0\0"]) == b"\4\0\0\0\xff\xd8\0\0"
    assert picture_tensor([b"a", b"bc"]) == b"\1\0\0\0a\2\0\0\0bc"


def test_the_card_is_read_from_the_configuration(card: Card) -> None:
    assert card_of(config_with(card), "pets") == card


@pytest.mark.parametrize("parameters", [{}, {"detserve_card": {}}, {"other": {"string_value": "{}"}}])
def test_a_model_without_card(card: Card, parameters: dict[str, Any]) -> None:
    with pytest.raises(ContractViolation, match="model 'pets' has no parameter detserve_card"):
        card_of({**config_with(card), "parameters": parameters}, "pets")


def test_a_step_is_no_detector(card: Card) -> None:
    outputs = [{"name": "image"}, {"name": "geometry"}]
    with pytest.raises(
        ContractViolation, match="'pets_preprocess' takes IMAGE and gives .*name the ensemble"
    ):
        card_of({**config_with(card), "output": outputs}, "pets_preprocess")
    with pytest.raises(ContractViolation, match="'identity' takes nothing and gives nothing; expected IMAGE"):
        card_of({}, "identity")


def test_a_wrong_card(card: Card) -> None:
    config = {**config_with(card), "parameters": {"detserve_card": {"string_value": "{}"}}}
    with pytest.raises(ContractViolation, match="the card of model 'pets': name"):
        card_of(config, "pets")
