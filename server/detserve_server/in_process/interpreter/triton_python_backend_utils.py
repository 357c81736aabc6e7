"""The names of Triton's python backend that a pipeline's model.py uses, for a model inside the server.

Only the backend's interpreter has this module, beside ``_detserve_triton``, which is backend.cpp. NVIDIA's
module of the same name is that of the other place, so that one model.py runs in both.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from _detserve_triton import Metric as _Metric
from _detserve_triton import TritonModelException as TritonModelException
from _detserve_triton import log as _log

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
WITHIN_SERVER = True  # the python backend has no such name


class TritonError:
    """Why a request is refused; the codes are those of TRITONSERVER_ErrorCode."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        """An error, INTERNAL unless said otherwise."""
        self.message, self.code = message, code


class Tensor:
    """A named output."""

    def __init__(self, name: str, values: Any) -> None:
        """``values`` are int32 or float32."""
        self.name, self.values = name, values


class InferenceResponse:
    """What a request is answered with: outputs, or an error."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        """With an ``error`` the outputs are not sent."""
        self.output_tensors, self.error = output_tensors, error


class InferenceRequest:
    """One request, and its response sender: there is one response, which is the final one."""

    def __init__(self, native: Any) -> None:
        """``native`` is a Request of backend.cpp."""
        self.native = native

    def parameters(self) -> str:
        """The request's parameters in JSON, "" where there are none."""
        found = self.native.parameters()
        return json.dumps(found) if found else ""

    def timeout(self) -> int:
        """In microseconds, 0 where none is set."""
        return int(self.native.timeout_us())

    def get_response_sender(self) -> InferenceRequest:
        """This request."""
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        """Answer, and let go of the request; a second answer does nothing.

        ``flags`` is TRITONSERVER_RESPONSE_COMPLETE_FINAL, there being one answer.
        """
        if response.error is not None:
            self.native.respond({}, response.error.code, response.error.message or "an error without a text")
            return
        self.native.respond({tensor.name: tensor.values for tensor in response.output_tensors}, 0, "")


class InputTensor:
    """A BYTES input of a request."""

    def __init__(self, native: Any, name: str) -> None:
        """Nothing is copied yet."""
        self.native, self.name = native, name

    def shape(self) -> list[int]:
        """With the batch dimension."""
        return list(self.native.input_shape(self.name))

    def as_numpy(self) -> Any:
        """Its elements, an object array of bytes; ValueError where they are not as many as its shape says."""
        elements = self.native.input_elements(self.name)
        values = np.empty(len(elements), object)
        values[:] = elements
        return values.reshape(self.shape())


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> InputTensor:
    """An input that the model's configuration demands, so that it is there."""
    return InputTensor(request.native, name)


class Logger:
    """Into Triton's log."""

    @staticmethod
    def log_warn(text: str) -> None:
        """A warning."""
        _log(1, text)

    @staticmethod
    def log_error(text: str) -> None:
        """An error."""
        _log(2, text)


class MetricFamily:
    """Metrics of one name in Triton's own."""

    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name: str, description: str, kind: str) -> None:
        """Nothing is registered yet."""
        self.name, self.description, self.kind = name, description, kind

    def Metric(self, labels: dict[str, str]) -> Metric:
        """The member with these labels; raises TritonModelException where Triton has metrics off."""
        return Metric(_Metric(self.name, self.description, self.kind == self.COUNTER, labels))


class Metric:
    """A counter or a gauge."""

    def __init__(self, native: Any) -> None:
        """``native`` is a Metric of backend.cpp."""
        self.native = native

    def set(self, value: float) -> None:
        """Of a gauge."""
        self.native.write(value)

    def increment(self, value: float) -> None:
        """Of a counter."""
        self.native.write(value)
