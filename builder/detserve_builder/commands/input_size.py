"""``--input-size``: the network's input, where the file leaves it open."""

from __future__ import annotations

import re

from detserve_builder.errors import BuildError
from detserve_core.card import Wh

INPUT_SIZE_HELP = "WIDTHxHEIGHT of the network's input, such as 640x480, where the file leaves it open"


def input_size(said: str | None) -> Wh | None:
    """Width and height in pixels; raises :class:`BuildError` for what is not a size."""
    if said is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", said.strip().lower())
    if match is None:
        raise BuildError(f"--input-size: got {said!r}, expected WIDTHxHEIGHT in pixels, such as 640x480")
    return int(match[1]), int(match[2])
