"""Labels beyond ASCII can be read in the drawn picture."""

from __future__ import annotations

import numpy as np
import pytest

from detserve_client import Detections
from detserve_core.pictures import fonts
from detserve_core.pictures.drawing import annotated
from detserve_core.pictures.fonts import drawable, font_for


def drawn(label: str) -> np.ndarray:
    box, score, first = np.array([[20, 60, 300, 200]], np.float32), np.array([0.9], np.float32), np.zeros(1)
    pixels = np.full((240, 420, 3), 128, np.uint8)
    return annotated(pixels, Detections(box, score, first.astype(np.int32), (label,)))


no_chinese = pytest.mark.skipif(
    drawable("瓶子", font_for(["瓶子"])) != "瓶子",
    reason="needs a font of Chinese letters: fonts-wqy-microhei",
)


@pytest.mark.parametrize(
    "label",
    [
        "groß",
        "бутылка",
        "Ελλάδα",
        *(pytest.param(label, marks=no_chinese) for label in ("瓶子", "ボトル")),
    ],
)
def test_a_label_beyond_ascii_has_its_own_letters(label: str) -> None:
    font = font_for([label])
    assert drawable(label, font) == label
    letters = label.encode("ascii", "ignore").decode()
    unlike = [drawn(letters + "?" * number) for number in range(1, 24)]
    unlike += [drawn(label[:-1] + "\ufffd"), drawn(label[1:])]
    assert not any(np.array_equal(drawn(label), other) for other in unlike)


def test_ascii_is_drawn_as_before() -> None:
    assert font_for(["person", "traffic light"]) is None


@no_chinese
def test_one_font_draws_all_labels_of_a_detector() -> None:
    font = font_for(["groß", "瓶子"])
    assert drawable("groß 瓶子 0.90", font) == "groß 瓶子 0.90"


def test_what_no_font_has_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_fonts_of_the_system", lambda: ())
    assert drawable("瓶子 0.90", font_for(["瓶子"])) == "\\u74f6\\u5b50 0.90"
    assert drawable("a\n\x1b", font_for(["a\n\x1b"])) == "a\\n\\x1b"
