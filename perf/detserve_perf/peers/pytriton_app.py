"""PyTriton: Triton in front of python functions, one a core, with dynamic batching."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from detserve_perf.peers.detector import CORES, PORT, open_detector

_MODEL = os.environ["DETSERVE_PEER_MODEL"]
_ROWS = int(os.environ["DETSERVE_PEER_ROWS"])
_OUTPUTS = (
    Tensor(name="num_detections", dtype=np.int32, shape=(1,)),
    Tensor(name="boxes", dtype=np.float32, shape=(_ROWS, 4)),
    Tensor(name="scores", dtype=np.float32, shape=(_ROWS,)),
    Tensor(name="classes", dtype=np.int32, shape=(_ROWS,)),
)


def _infer_function() -> Any:
    detect = open_detector()

    def infer(requests: list[Any]) -> list[dict[str, Any]]:
        return [_answer(request.data["IMAGE"]) for request in requests]

    def _answer(pictures: Any) -> dict[str, Any]:
        outputs = zip(*(detect(picture) for picture in pictures[:, 0]), strict=True)
        return {tensor.name: np.stack(values) for tensor, values in zip(_OUTPUTS, outputs, strict=True)}

    return infer


if __name__ == "__main__":
    grpc_port, metrics_port = (int(port) for port in os.environ["DETSERVE_PEER_MORE_PORTS"].split(","))
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        metrics_port=metrics_port,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=_MODEL,
            infer_func=[_infer_function() for _ in range(CORES)],
            inputs=[Tensor(name="IMAGE", dtype=bytes, shape=(1,))],
            outputs=_OUTPUTS,
            config=ModelConfig(batching=True, max_batch_size=8, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()
