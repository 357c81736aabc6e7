"""Small repositories for tests: python models with the names and tensors of the contract."""

from __future__ import annotations

from pathlib import Path

from detserve_core import contract

_FIRST = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        responses = []
        for request in requests:
            pictures = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
            lengths = np.array([[len(picture)] for picture in pictures.reshape(-1)], dtype=np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("length", lengths)]))
        return responses
"""

_SECOND = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            lengths = pb_utils.get_input_tensor_by_name(request, "length").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("num_detections", lengths)]))
        return responses
"""

_LENGTH = ("length", "TYPE_INT32")
_IMAGE = (contract.IMAGE, "TYPE_STRING")
_NUMBER = (contract.NUM_DETECTIONS, "TYPE_INT32")


def write_repository(folder: Path, *, initialize: str = "pass") -> Path:
    """Ensemble ``tiny`` of two python models: ``num_detections`` is the length of ``IMAGE`` in bytes."""
    _python_model(folder, "tiny_preprocess", _FIRST.format(initialize=initialize), _IMAGE, _LENGTH)
    _python_model(folder, "tiny_postprocess", _SECOND, _LENGTH, _NUMBER)
    (folder / "tiny/1").mkdir(parents=True)
    (folder / "tiny/config.pbtxt").write_text(
        _head("tiny", _IMAGE, _NUMBER)
        + """
platform: "ensemble"
ensemble_scheduling {
  step { model_name: "tiny_preprocess" model_version: -1
    input_map { key: "IMAGE" value: "IMAGE" } output_map { key: "length" value: "length" } }
  step { model_name: "tiny_postprocess" model_version: -1
    input_map { key: "length" value: "length" }
    output_map { key: "num_detections" value: "num_detections" } }
}
"""
    )
    return folder


def _python_model(
    folder: Path, name: str, code: str, source: tuple[str, str], result: tuple[str, str]
) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1/model.py").write_text(code)
    (folder / name / "config.pbtxt").write_text(
        _head(name, source, result)
        + 'backend: "python"\ninstance_group { kind: KIND_CPU count: 1 }\ndynamic_batching { }\n'
    )


def _head(name: str, source: tuple[str, str], result: tuple[str, str]) -> str:
    return (
        f'name: "{name}"\nmax_batch_size: 8\n'
        f'input {{ name: "{source[0]}" data_type: {source[1]} dims: [1] }}\n'
        f'output {{ name: "{result[0]}" data_type: {result[1]} dims: [1] }}\n'
    )
