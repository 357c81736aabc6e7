"""What the builder raises on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detserve_client.errors import CardError, DetserveError


class BuildError(DetserveError):
    """A checkpoint, card or folder the builder cannot work with; one sentence."""


def first_line(error: Exception) -> str:
    """What a library says, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def naming_the_card(path: Path | None) -> Iterator[None]:
    """Let a CardError begin with the card's file, where there is one, instead of the word card."""
    try:
        yield
    except CardError as error:
        text = str(error)
        if path is None or not text.startswith("card: "):
            raise
        raise CardError(f"{path}: {text.removeprefix('card: ')}") from None
