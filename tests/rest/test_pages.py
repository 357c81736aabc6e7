"""The page's files: in the wheel, without anything inline and without an address elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from detserve_rest.pages import FOLDER

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

CHECKOUT = Path(__file__).parents[2]
FILES = sorted(FOLDER.iterdir())


def test_the_wheel_has_the_page() -> None:
    """Hatch takes all that git does not ignore in the packages that it is told."""
    hatch = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]
    assert FOLDER.is_relative_to(CHECKOUT / "rest/detserve_rest")
    assert "rest/detserve_rest" in hatch["build"]["targets"]["wheel"]["packages"]
    assert "exclude" not in hatch["build"]["targets"]["wheel"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_a_file_names_is_beside_it(path: Path) -> None:
    text = path.read_text()
    addresses = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
    assert not addresses
    named = re.findall(r'from "\./([\w.]+)"', text) + re.findall(r'(?:href|src)="page/([\w.]+)"', text)
    assert {FOLDER / name for name in named} <= set(FILES)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
