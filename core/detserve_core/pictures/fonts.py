"""Fonts for labels beyond ASCII, of which the one that OpenCV draws with has nothing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path


def font_for(texts: Iterable[str]) -> Path | None:
    """The font that has most of the characters of all texts; None where all are ASCII, as OpenCV's is."""
    wanted = {ord(character) for text in texts for character in text}
    if all(32 <= character < 127 for character in wanted):
        return None
    if wanted <= _characters(_dejavu()):
        return _dejavu()
    return max([_dejavu(), *_fonts_of_the_system()], key=lambda font: len(wanted & _characters(font)))


def drawable(text: str, font: Path | None) -> str:
    """The text with what the font lacks written out: U+0E2B as ``\\u0e2b``."""
    if font is None:
        return text
    characters = _characters(font)
    return "".join(one if ord(one) in characters and one.isprintable() else _written_out(one) for one in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _dejavu() -> Path:
    """DejaVu Sans, which Matplotlib carries: Latin, Greek, Cyrillic, Arabic, Hebrew."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


@cache
def _fonts_of_the_system() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(map(Path, findSystemFonts())))


@cache
def _characters(font: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(font)).get_charmap())
    except (OSError, RuntimeError):  # a file of a format that FreeType does not read
        return frozenset()
