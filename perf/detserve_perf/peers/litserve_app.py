"""LitServe, one worker process a core; the picture is base64 in JSON, as in its examples, JSON comes back."""

from __future__ import annotations

import base64
from typing import Any

import litserve

from detserve_perf.peers.detector import CORES, PORT, as_json, open_detector


class DetectorAPI(litserve.LitAPI):
    """The four steps LitServe asks for."""

    def setup(self, device: str) -> None:
        """Open the detector in each worker."""
        self.detector = open_detector()

    def decode_request(self, request: dict[str, str]) -> bytes:
        """Take the picture out of the JSON."""
        return base64.b64decode(request["picture"])

    def predict(self, x: bytes) -> Any:
        """Detect in one picture."""
        return self.detector(x)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Leave out the padding."""
        return as_json(output)


if __name__ == "__main__":
    server = litserve.LitServer(
        DetectorAPI(api_path="/detect"), accelerator="cpu", devices=1, workers_per_device=CORES
    )
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, access_log=False)
