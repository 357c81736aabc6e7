"""Loading a model.py into the server's one interpreter; only the backend imports this module.

Every pipeline has its own copy of the steps, which another build may have written: the modules beside a
model.py are its alone.
"""

from __future__ import annotations

import importlib
import sys
import threading
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

_ONE_AT_A_TIME = threading.Lock()


class LoadedModel:
    """What the backend keeps of a model instance."""

    def __init__(self, model: Any) -> None:
        """``model`` is an initialized TritonPythonModel."""
        self.model = model
        self.finalize = getattr(model, "finalize", lambda: None)

    def execute(self, requests: list[Any]) -> None:
        """Hand over requests of backend.cpp; they are answered later."""
        self.model.execute([pb_utils.ReceivedRequest(request) for request in requests])


def load(arguments: dict[str, str]) -> LoadedModel:
    """Initialize the TritonPythonModel of the model.py in a version's folder."""
    folder = str(Path(arguments["model_repository"]) / arguments["model_version"])
    with _ONE_AT_A_TIME:
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            model = importlib.import_module("model").TritonPythonModel()
            model.initialize(arguments)
        finally:
            sys.path.remove(folder)
            _forget_modules_of(folder)
    return LoadedModel(model)


def _forget_modules_of(folder: str) -> None:
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(folder) in Path(file).parents:
            del sys.modules[name]
