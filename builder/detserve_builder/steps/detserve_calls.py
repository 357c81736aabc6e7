"""Another model of the same Triton, called by BLS: Triton batches what several threads ask it at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_preprocess import PictureError
from detserve_requests import Refusal

#: How the preprocess step begins what it says of the only picture of a request.
_OF_THE_PICTURE = "picture 0: "
# What Triton says to a model that calls another when it is to end; the python backend makes it INTERNAL.
_GOING_DOWN = ("Server not ready", "Server is stopping", "has no available versions")


class CallFailed(Refusal):  # type: ignore[misc]  # beside this file only where it is served
    """A model that was called answered with an error."""

    def __init__(self, model: str, error: Any) -> None:
        """``error`` is its TritonError, whose code is INTERNAL whatever it was on Triton's python backend.

        That it is full, or its server about to end, may be asked again; all else is no caller's to fix.
        """
        self.said = error.message()
        ending = any(words in self.said for words in _GOING_DOWN)
        full = ending or error.code() == pb_utils.TritonError.UNAVAILABLE
        passed_on = pb_utils.TritonError.UNAVAILABLE if full else pb_utils.TritonError.INTERNAL
        text = f"Server is stopping: {model} takes no more requests" if ending else f"{model}: {self.said}"
        super().__init__("overloaded" if full else "failed", pb_utils.TritonError(text, passed_on))


def call(model: str, inputs: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """Tensors to ``model``; its ``outputs``, pb_utils.Tensor in the same order.

    Blocks without the interpreter's lock. Raises :class:`CallFailed` with what the model answered.
    """
    request = pb_utils.InferenceRequest(
        model_name=model, requested_output_names=list(outputs), inputs=list(inputs)
    )
    response = request.exec()
    if response.has_error():
        raise CallFailed(model, response.error())
    found = [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]
    if None in found:
        absent = pb_utils.TritonError(f"{model} gave no output {outputs[found.index(None)]!r}")
        raise Refusal("failed", absent)
    return found


class CalledDetector:
    """The network in a model of its own, with the interface of detserve_detector.Session."""

    def __init__(self, model: str) -> None:
        """``model`` is the name of the detector step."""
        self.model = model

    def run(self, outputs: Sequence[str], feed: Mapping[str, Any]) -> list[Any]:
        """Run the network."""
        tensors = [pb_utils.Tensor(name, values) for name, values in feed.items()]
        return [found.as_numpy() for found in call(self.model, tensors, outputs)]


class CalledPreprocess:
    """The preprocess step in a model of its own: DALI's."""

    def __init__(self, model: str) -> None:
        """``model`` is the name of the preprocess step."""
        self.model = model

    def __call__(self, encoded: bytes) -> tuple[Any, Any]:
        """An encoded picture to its image, uint8 [H,W,3], and geometry, as detserve_preprocess gives them.

        Raises detserve_preprocess.PictureError for a picture that cannot be used.
        """
        picture = pb_utils.Tensor("IMAGE", np.array([[encoded]], np.object_))
        try:
            images, geometry = call(self.model, [picture], ("images", "geometry"))
        except CallFailed as failed:
            if failed.said.startswith(_OF_THE_PICTURE):
                raise PictureError(failed.said.removeprefix(_OF_THE_PICTURE)) from None
            raise
        return images.as_numpy()[0], geometry.as_numpy()[0]
