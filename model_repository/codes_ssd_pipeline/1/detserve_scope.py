"""The gateway's word on which detectors a request may use.

nginx does not read gRPC messages, where the model's name is; it sends the header ``detserve-models``, and
Triton hands it to the steps as a request parameter. A parameter of that name which the client sends itself
comes before it in Triton's JSON, where the last one counts.
"""

from __future__ import annotations

import json

PARAMETER = "detserve-models"


def refusal(parameters: str, model_name: str) -> str | None:
    """Why a request must not use the detector that ``model_name`` is a step of; None: it may.

    ``parameters`` is Triton's JSON of the request's parameters. Without a gateway nobody is refused.
    """
    if not parameters:
        return None
    models = json.loads(parameters).get(PARAMETER, "*")
    detector = model_name.rpartition("_")[0]
    if models == "*" or f",{detector}," in str(models):
        return None
    return f"this key is not for model {detector!r}"
