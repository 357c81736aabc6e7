"""What the builder raises on purpose."""

from detserve_client.errors import DetserveError


class BuildError(DetserveError):
    """A checkpoint, card or folder the builder cannot work with; one sentence."""
