"""Triton python model, the whole way of a picture: IMAGE -> the contract's outputs.

It runs on Triton's python backend, or on detserve's own within the server's process. Every picture is a task
for one thread: decoded, resized, through the network, suppressed. OpenCV and the runtime release the GIL. The
network is a session that all threads share, or another model of this Triton, which batches what they ask it.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from detserve_cores import cores
from detserve_metrics import STAGES, RequestCounts
from detserve_requests import PictureRequests, prepare_opencv

OUTPUTS = ("num_detections", "boxes", "scores", "classes")


class TritonPythonModel:
    """Preprocess, detector, postprocess; see the detserve_*.py beside this file."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters and open the network."""
        config = json.loads(args["model_config"])
        said = {name: parameter["string_value"] for name, parameter in config["parameters"].items()}
        card = json.loads(said["detserve_card"])
        prepare_opencv(card)
        import detserve_postprocess
        import detserve_preprocess

        self.pre, self.post = detserve_preprocess, detserve_postprocess
        folder = Path(args["model_repository"]) / args["model_version"]
        if "detector" in said:
            threads = self._call_detector(said)
        else:
            threads = self._open_network(said, folder / "model.onnx")
        self.preprocess = self._preprocess(said, card)
        self.counts = RequestCounts(STAGES, warm_ups=len(config.get("model_warmup", ())))
        self.requests = PictureRequests(
            args,
            said,
            self.counts,
            threads=threads,
            outputs=OUTPUTS,
            settings_of=partial(detserve_postprocess.request_thresholds, card["thresholds"]),
            work=self._detect,
            bad_picture=detserve_preprocess.PictureError,
        )

    def execute(self, requests: list[Any]) -> None:
        """Queue the pictures; each request is answered when its last one is done."""
        self.requests.execute(requests)

    def finalize(self) -> None:
        """Answer what is in flight."""
        self.requests.finish()

    def _open_network(self, said: dict[str, str], model: Path) -> int:
        """The session of this process; returns how many threads take pictures."""
        import detserve_detector

        # Within the server's process a picture's thread never waits, and a third thread on two cores would
        # only take turns with their caches. In a process of its own one more: while one waits for Triton to
        # take its answer, another has the core.
        threads: int = cores() + (not hasattr(pb_utils, "WITHIN_SERVER"))
        self.session = detserve_detector.open_session(
            str(model),
            int(said["threads"]),
            runtime=said["runtime"],
            floats=said["floats"],
            callers=threads,
        )
        self.decoding: Any = nullcontext()
        return threads

    def _call_detector(self, said: dict[str, str]) -> int:
        """The network is another model, for whose answer the threads wait; returns how many they are."""
        import detserve_calls

        self.session = detserve_calls.CalledDetector(said["detector"])
        at_a_time: int = cores()
        self.decoding = threading.BoundedSemaphore(at_a_time)
        return int(said["in_flight"]) + at_a_time

    def _preprocess(self, said: dict[str, str], card: dict[str, Any]) -> Any:
        if "preprocess" in said:
            import detserve_calls

            self.decoding = nullcontext()
            return detserve_calls.CalledPreprocess(said["preprocess"])
        return partial(self.pre.preprocess, **self.pre.settings(card))

    def _detect(self, encoded: bytes, thresholds: dict[str, Any]) -> Any:
        began_s = time.monotonic()
        with self.decoding:
            image, geometry = self.preprocess(encoded)
        decoded_s = time.monotonic()
        candidates = self.session.run(("boxes", "scores", "classes"), {"images": image[None]})
        detected_s = time.monotonic()
        found = self.post.postprocess(*(batch[0] for batch in candidates), geometry, **thresholds)
        self.counts.spend(
            decode=decoded_s - began_s,
            detector=detected_s - decoded_s,
            postprocess=time.monotonic() - detected_s,
        )
        return found
