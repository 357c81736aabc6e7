"""Triton python model, step 1 of three: IMAGE -> images, geometry. Its queue bounds those behind it too."""

from __future__ import annotations

import json
import time
from typing import Any

from detserve_cores import cores
from detserve_metrics import RequestCounts
from detserve_requests import PictureRequests, prepare_opencv

OUTPUTS = ("images", "geometry")


class TritonPythonModel:
    """Decodes and resizes; see detserve_preprocess."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters."""
        config = json.loads(args["model_config"])
        said = {name: parameter["string_value"] for name, parameter in config["parameters"].items()}
        card = json.loads(said["detserve_card"])
        prepare_opencv(card)
        import detserve_preprocess

        self.preprocess, self.settings = detserve_preprocess.preprocess, detserve_preprocess.settings(card)
        self.counts = RequestCounts(("queue", "decode"), last=False, warm_ups=len(config["model_warmup"]))
        self.requests = PictureRequests(
            args,
            said,
            self.counts,
            threads=cores() + 1,  # one more, for while one waits for Triton to take its answer
            outputs=OUTPUTS,
            settings_of=lambda parameters: None,  # they are read behind the detector
            work=self._decode,
            bad_picture=detserve_preprocess.PictureError,
        )

    def execute(self, requests: list[Any]) -> None:
        """Queue the pictures; each request is answered when its last one is done."""
        self.requests.execute(requests)

    def finalize(self) -> None:
        """Answer what is in flight."""
        self.requests.finish()

    def _decode(self, encoded: bytes, _: None) -> Any:
        began_s = time.monotonic()
        found = self.preprocess(encoded, **self.settings)
        self.counts.spend(decode=time.monotonic() - began_s)
        return found
