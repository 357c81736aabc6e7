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
from _detserve_triton import infer as _infer
from _detserve_triton import log as _log
from _detserve_triton import model_is_ready as _model_is_ready

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
WITHIN_SERVER = True  # the python backend has no such name


class TritonError:
    """Why a request is refused; the codes are those of TRITONSERVER_Error_Code."""

    (
        UNKNOWN,
        INTERNAL,
        NOT_FOUND,
        INVALID_ARG,
        UNAVAILABLE,
        UNSUPPORTED,
        ALREADY_EXISTS,
        CANCELLED,
    ) = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        """An error, INTERNAL unless said otherwise."""
        self._message, self._code = message, code

    def message(self) -> str:
        """The sentence."""
        return self._message

    def code(self) -> int:
        """One of the codes above."""
        return self._code


class Tensor:
    """A named output of this model, or a named input or output of another."""

    def __init__(self, name: str, values: Any) -> None:
        """``values`` are numbers, of an output int32 or float32; an input's may be objects, all bytes."""
        self._name, self._values = name, values

    def name(self) -> str:
        """As the model's configuration calls it."""
        return self._name

    def as_numpy(self) -> Any:
        """The values, not copied."""
        return self._values


class InferenceResponse:
    """What a request is answered with: outputs, or an error."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        """With an ``error`` the outputs are not sent."""
        self._output_tensors, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        """Empty where there is an error."""
        return self._output_tensors

    def has_error(self) -> bool:
        """Whether there are no outputs."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """The error, or None."""
        return self._error


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    """An output of another model, None where it is not there."""
    return next((tensor for tensor in response.output_tensors() if tensor.name() == name), None)


class InferenceRequest:
    """A request to another model of this server."""

    def __init__(
        self, *, model_name: str, requested_output_names: list[str], inputs: list[Tensor], timeout: int = 0
    ) -> None:
        """``timeout`` is how long it may wait in the model's queue, in microseconds; 0 is for ever.

        It counts where the model's queue policy allows a request to say so, as on Triton's python backend.
        """
        self._model_name, self._output_names = model_name, list(requested_output_names)
        self._inputs = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        self._timeout_us = timeout

    def exec(self) -> InferenceResponse:
        """Send it and wait for the answer, from any thread; numbers are not copied, so leave them alone.

        Whatever goes wrong is the response's error: the model's own, or Triton's where it takes no request.
        """
        outputs, code, reason = _infer(self._model_name, self._inputs, self._output_names, self._timeout_us)
        if outputs is None:
            return InferenceResponse([], TritonError(reason, code))
        return InferenceResponse([Tensor(name, values) for name, values in outputs.items()])


def is_model_ready(model_name: str) -> bool:
    """Whether another model takes requests.

    Raises TritonModelException while the server loads the models that it starts with. None is ready before
    all are, so ``initialize`` is too early to ask; on Triton's python backend it may even end the server.
    """
    return bool(_model_is_ready(model_name))


class ReceivedRequest:
    """One request to this model, and its response sender: there is one response, which is the final one."""

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

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more: its caller has gone, or it has been answered."""
        return bool(self.native.is_cancelled())

    def get_response_sender(self) -> ReceivedRequest:
        """This request."""
        return self

    def send(self, response: InferenceResponse, flags: int) -> None:
        """Answer, and let go of the request; a second answer does nothing.

        ``flags`` is TRITONSERVER_RESPONSE_COMPLETE_FINAL, there being one answer.
        """
        if error := response.error():
            self.native.respond({}, error.code(), error.message() or "an error without a text")
            return
        outputs = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        self.native.respond(outputs, 0, "")


class InputTensor:
    """An input of a request."""

    def __init__(self, native: Any, name: str) -> None:
        """Nothing is copied yet."""
        self.native, self.name = native, name

    def shape(self) -> list[int]:
        """With the batch dimension."""
        return list(self.native.input_shape(self.name))

    def as_numpy(self) -> Any:
        """Its values; ValueError where they are not as many as its shape says.

        Numbers are read-only and lie in the request's own memory where that is in one piece. Triton has the
        request back when it is answered and no such array is left. BYTES are copied, an object array.
        """
        if not self.native.is_bytes(self.name):
            return self.native.input_numbers(self.name)
        elements = self.native.input_elements(self.name)
        values = np.empty(len(elements), object)
        values[:] = elements
        return values.reshape(self.shape())


def get_input_tensor_by_name(request: ReceivedRequest, name: str) -> InputTensor:
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
