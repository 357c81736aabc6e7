"""Triton python model, step 1 of three: IMAGE -> images, geometry. Its queue bounds those behind it too."""

from __future__ import annotations

import json
from typing import Any

from detserve_requests import PictureRequests, cores, prepare_opencv

OUTPUTS = ("images", "geometry")


class TritonPythonModel:
    """Decodes and resizes; see detserve_preprocess."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters."""
        parameters = json.loads(args["model_config"])["parameters"]
        said = {name: parameter["string_value"] for name, parameter in parameters.items()}
        card = json.loads(said["detserve_card"])
        prepare_opencv(card)
        import detserve_preprocess

        settings = detserve_preprocess.settings(card)
        self.requests = PictureRequests(
            args["model_name"],
            said,
            threads=cores() + 1,  # one more, for while one waits for Triton to take its answer
            outputs=OUTPUTS,
            settings_of=lambda parameters: None,  # they are read behind the detector
            work=lambda encoded, _: detserve_preprocess.preprocess(encoded, **settings),
            bad_picture=detserve_preprocess.PictureError,
        )

    def execute(self, requests: list[Any]) -> None:
        """Queue the pictures; each request is answered when its last one is done."""
        self.requests.execute(requests)

    def finalize(self) -> None:
        """Answer what is in flight."""
        self.requests.finish()
