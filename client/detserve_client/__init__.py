"""Pictures in, detections out: the client of a detector served by detserve."""

from detserve_client.card import Card
from detserve_client.errors import DetserveError

__all__ = ["Card", "DetserveError"]
