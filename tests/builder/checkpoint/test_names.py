"""Class names in metadata and configuration files: used, or it is said why not."""

from __future__ import annotations

import onnx
import pytest

from detserve_builder.card_sources import Source
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.checkpoint.names import labels_of, written_names
from detserve_builder.infer_card import read_card
from tests.builder.tiny_networks import save_linear_network


@pytest.mark.parametrize(
    ("written", "num_classes", "labels"),
    [
        ("{0: 'cat', 1: 'dog', 2: 'owl'}", 3, ["cat", "dog", "owl"]),
        ("['cat', 'dog', 'owl']", 3, ["cat", "dog", "owl"]),
        ('{"0": "cat", "1": "dog", "2": "owl"}', 3, ["cat", "dog", "owl"]),
        ('["cat", null]', 2, ["cat", "None"]),
        ("{1: 'cat', 2: 'dog', 3: 'owl'}", 3, ["cat", "dog", "owl"]),
        ("{1: 'cat', 2: 'dog', 3: 'owl'}", 4, ["class_0", "cat", "dog", "owl"]),
        ("{2: 'owl', 0: 'cat'}", 3, ["cat", "class_1", "owl"]),
        ("{0: 'cat', 1: 'dog'}", None, ["cat", "dog"]),
        ("{10: 'x', 2: 'c'}", 11, [*("class_0", "class_1", "c"), *(f"class_{n}" for n in range(3, 10)), "x"]),
    ],
)
def test_names_become_labels(written, num_classes, labels) -> None:
    assert labels_of(written_names({"names": written}, {}), num_classes) == (labels, "")


@pytest.mark.parametrize(
    ("written", "why_not"),
    [
        ("{0: '0', 1: '1', 2: '2'}", "only the class numbers"),
        ("{0: 'a', 1: 'b', 2: 'c', 3: 'd'}", "4 names, numbers 0 to 3, do not fit the 3 classes"),
        ("{1: 'dog'}", "1 names, numbers 1 to 1, do not fit the 3 classes"),
        ("{-1: 'a', 0: 'b', 1: 'c'}", "do not fit the 3 classes"),
        ("__import__('os')", ""),
        ("{0: 'a', 'x': 'b'}", ""),
        ("3", ""),
        ("", ""),
    ],
)
def test_names_that_are_not_used(written, why_not) -> None:
    labels, found = labels_of(written_names({"names": written}, {}), 3)
    assert labels == []
    assert why_not in found
    assert bool(why_not) == bool(found)


def test_hugging_face_names_classes_beside_the_file() -> None:
    configs = {"config.json": {"id2label": {"1": "dog", "0": "cat"}}}
    assert labels_of(written_names({}, configs), 2) == (["cat", "dog"], "")
    configs = {"config.json": {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}}
    assert labels_of(written_names({}, configs), 2)[0] == []


def test_a_card_says_why_names_are_not_used(tmp_path) -> None:
    path = save_linear_network(tmp_path / "net.onnx", {"output0": [7, 84]})
    model = onnx.load(path)
    model.metadata_props.add(key="names", value="{0: 'a', 1: 'b', 2: 'c', 3: 'd'}")
    onnx.save(model, path)
    read = read_card(load_checkpoint(str(path)))
    assert read.card.labels == ["class_0", "class_1", "class_2"]
    assert read.sources["labels"] is Source.GUESS
    assert "4 names, numbers 0 to 3, do not fit the 3 classes" in read.guesses["labels"]
