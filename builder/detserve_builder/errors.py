"""What the builder raises on purpose."""

from detserve_client.errors import DetserveError


class BuildError(DetserveError):
    """A checkpoint, card or folder the builder cannot work with; one sentence."""


def first_line(error: Exception) -> str:
    """What a library says, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
