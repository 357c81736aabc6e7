"""The parts of a form (multipart/form-data, RFC 7578)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detserve_rest.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
_MOST_PARTS = 16
_MOST_BOUNDARY = 70  # RFC 2046


@dataclass
class Part:
    """A part: ``file_name`` is "" for a field."""

    name: str = ""
    file_name: str = ""
    content: bytes = field(default=b"", repr=False)


def parts_of(body: bytes, options: dict[str, str]) -> list[Part]:
    """The parts of a whole body; ``options`` are those of its content-type.

    Raises:
        Problem: it is not a form, is cut off, or has too many parts.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    boundary = options.get("boundary", "")
    if not 1 <= len(boundary) <= _MOST_BOUNDARY:
        raise Problem(
            "bad-request", f"the content-type {FORM} has no boundary of 1 to {_MOST_BOUNDARY} characters"
        )
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeDecodeError) as error:
        raise Problem("bad-request", f"the form cannot be read: {error}") from None
    if not reader.ended:
        raise Problem("bad-request", "the form is cut off: its last boundary is missing")
    return reader.parts


class _Reader:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._header = [b"", b""]
        self._pieces: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._said(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._said(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._pieces.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        if len(self.parts) == _MOST_PARTS:
            raise Problem("bad-request", f"the form has more than {_MOST_PARTS} parts")
        self.parts.append(Part())

    def _said(self, which: int, text: bytes) -> None:
        self._header[which] += text

    def _header_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        name, value = self._header
        self._header = [b"", b""]
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value)
            self.parts[-1].name = options.get(b"name", b"").decode()
            self.parts[-1].file_name = options.get(b"filename", b"").decode()
        elif name.lower() == b"content-transfer-encoding" and value.lower() not in (
            b"binary",
            b"8bit",
            b"7bit",
        ):
            raise Problem(
                "bad-request", f"a part of the form is encoded as {value.decode()!r}; send it as it is"
            )

    def _end(self) -> None:
        self.parts[-1].content = b"".join(self._pieces)
        self._pieces = []

    def _all(self) -> None:
        self.ended = True
