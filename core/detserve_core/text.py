"""Text that is valid Unicode, whatever the names in it are."""

from __future__ import annotations

import json
import re

_SURROGATE = re.compile("[\ud800-\udfff]")  # how Python holds a name's bytes that are not UTF-8
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # tabs and line breaks are text


def name_key(name: str) -> str:
    """What makes two class names the same: case and outer blanks do not count."""
    return name.strip().casefold()


def readable(text: str) -> str:
    """The text with what is no Unicode written out: the byte E9 of a file's name as ``\\xe9``."""
    return _SURROGATE.sub(_written_out, text)


def printable(text: str) -> str:
    """:func:`readable`, and nothing in it steers a terminal: an escape character is ``\\x1b``."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", readable(text))


def json_text(content: object, indent: int | None = None) -> str:
    """JSON that every reader takes; names in it are :func:`readable`."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\{_written_out(found)}", text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
