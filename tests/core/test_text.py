from __future__ import annotations

import json
import os

import pytest

from detserve_core.text import json_text, printable, readable

LATIN_1 = os.fsdecode(b"caf\xe9.jpg")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LATIN_1, "caf\\xe9.jpg"),
        ("\ud800\udcff", "\\ud800\\xff"),
        ("café бутылка 瓶子 🍾 \\xe9", "café бутылка 瓶子 🍾 \\xe9"),
    ],
)
def test_what_is_no_unicode_is_written_out(text: str, expected: str) -> None:
    assert readable(text) == expected
    assert json.loads(json_text({text: [text]}).encode()) == {expected: [expected]}


def test_json_says_letters_as_they_are() -> None:
    assert json_text(["groß", "瓶子"]) == '["groß", "瓶子"]'
    assert json_text({"a": 1}, indent=1) == '{\n "a": 1\n}'


def test_a_name_does_not_steer_the_terminal() -> None:
    assert printable(f"{LATIN_1}\x1b[2J\x9b瓶子\tone\n") == "caf\\xe9.jpg\\x1b[2J\\x9b瓶子\tone\n"
