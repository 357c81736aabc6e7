"""BentoML, one worker process a core; the picture is the body, JSON comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from detserve_perf.peers.detector import CORES, as_json, open_detector


@bentoml.service(workers=CORES, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Detector:
    """One detector in each worker."""

    def __init__(self) -> None:
        self.detector = open_detector()

    @bentoml.api(route="/detect")  # type: ignore[untyped-decorator]
    def detect(self, picture: Annotated[Path, ContentType("image/jpeg")], /) -> dict[str, Any]:
        """Detect in one picture; BentoML hands a body over as a file."""
        return as_json(self.detector(picture.read_bytes()))
