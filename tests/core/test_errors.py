from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator

import pytest

import detserve_builder
import detserve_client
import detserve_core
import detserve_perf
import detserve_rest
import detserve_server
from detserve_core.errors import DetserveError, MissingExtra

PACKAGES = (
    detserve_builder,
    detserve_client,
    detserve_core,
    detserve_perf,
    detserve_rest,
    detserve_server,
)


def _every(kind: type[DetserveError]) -> Iterator[type[DetserveError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _every(below)


def _errors() -> list[type[DetserveError]]:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in (".steps.", "_app", ".interpreter.")):
                importlib.import_module(module.name)
    return list(dict.fromkeys(_every(DetserveError)))


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_another_process_as_it_was(kind: type[DetserveError]) -> None:
    """A pool of processes waits for ever for an error that it cannot unpickle."""
    error = MissingExtra("onnx", "builder") if kind is MissingExtra else kind("a sentence; how to fix it")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert str(again) == str(error)
