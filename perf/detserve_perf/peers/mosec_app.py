"""mosec: a Rust server in front of one worker process a core; the picture is the body, JSON comes back."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker

from detserve_perf.peers.detector import CORES, as_json, open_detector


class Detector(Worker):
    """One detector in each worker; mosec's own serialize makes JSON of what forward returns."""

    def __init__(self) -> None:
        self.detector = open_detector()

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is."""
        return data

    def forward(self, data: bytes) -> dict[str, Any]:
        """Detect in one picture."""
        return as_json(self.detector(data))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Detector, num=CORES, route="/detect")
    server.run()
