"""What the builder raises on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detserve_core.errors import CardError, DetserveError


class BuildError(DetserveError):
    """A checkpoint, card or folder the builder cannot work with; one sentence."""


def first_line(error: Exception) -> str:
    """What a library says, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def naming_the_card(path: Path | None, checkpoint: Path) -> Iterator[None]:
    """Let a CardError begin with the file of the card, or with ``checkpoint`` where there is none."""
    try:
        yield
    except CardError as error:
        text = str(error)
        if not text.startswith("card: "):
            raise
        text = text.removeprefix("card: ")
        if path is None:
            raise CardError(f"{checkpoint}: {text}; a card says what the file does not (--card)") from None
        raise CardError(f"{path}: {text}") from None
