"""A .cfg is read as Darknet reads it, and what is no .cfg is one sentence with the line in it."""

from __future__ import annotations

import pytest

from detserve_builder.darknet.cfg import parse_cfg
from detserve_builder.errors import BuildError


def write(folder, text: str):
    (folder / "net.cfg").write_bytes(text.encode())
    return folder / "net.cfg"


def test_spaces_comments_windows_line_ends_and_keys_given_twice(tmp_path) -> None:
    text = "# own\r\n[net]\r\nwidth = 32 # px\r\n; old\r\n\r\n[yolo]\r\nmask = 0, 1,2\r\n#mask=9\nmask=5\n"
    net, yolo = parse_cfg(write(tmp_path, text))
    assert (net.name, net.integer("width")) == ("net", 32)
    assert (yolo.integers("mask"), yolo.where) == ([0, 1, 2], f"{tmp_path}/net.cfg line 6: [yolo]")
    assert (yolo.number("scale_x_y", 1.0), yolo.integer("num", 3)) == (1.0, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with \\[net\\], this file has no section first"),
        ("[yolo]\nclasses=1", "begins with \\[net\\], this file has \\[yolo\\] first"),
        ("width=3\n[net]", "line 1: 'width=3', expected \\[net\\] first"),
        ("[net]\nwidth 3", "line 2: 'width 3', expected key=value"),
        ("[net\nwidth=3", "line 1: '\\[net', expected \\[net\\] first"),
    ],
)
def test_a_file_that_is_no_cfg(tmp_path, text, words) -> None:
    with pytest.raises(BuildError, match=words):
        parse_cfg(write(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("size=big", "line 1: \\[net\\]: size=big, expected an integer"),
        ("size=0", "size=0, expected at least 1"),
        ("width=1", "size= is missing"),
    ],
)
def test_an_option_that_is_wrong(tmp_path, line, words) -> None:
    (net,) = parse_cfg(write(tmp_path, f"[net]\n{line}"))
    with pytest.raises(BuildError, match=words):
        net.integer("size", at_least=1)
