from __future__ import annotations

import json
import subprocess
import sys

import pytest

import detserve_client

HEAVY = [
    "PIL",
    "av",
    "cv2",
    "grpc",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "rich",
    "supervision",
    "torch",
    "tritonclient",
    "typer",
    "urllib3",
]


def loaded_by(code: str) -> set[str]:
    report = f"{code}\nimport sys, json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_loads_no_heavy_library() -> None:
    assert loaded_by("import detserve_client").isdisjoint(HEAVY)


@pytest.mark.parametrize("unused", ["onnx", "onnxruntime", "cv2", "supervision", "tritonclient", "grpc"])
def test_the_command_loads_no_heavy_library(unused: str) -> None:
    assert unused not in loaded_by("import detserve_client.commands.detect")


def test_every_public_name_is_listed() -> None:
    public = {
        name
        for name, value in vars(detserve_client).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("detserve_client.")
    }
    assert public <= set(detserve_client.__all__)
    assert list(detserve_client.__all__) == sorted(detserve_client.__all__)
    assert all(hasattr(detserve_client, name) for name in detserve_client.__all__)


def test_every_error_of_the_package_is_exported_and_drawn_in_the_tree() -> None:
    from detserve_client import errors

    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DetserveError)
    }
    assert raised <= set(detserve_client.__all__)
    tree = errors.__doc__ or ""
    assert all(f" {name} " in tree or f"    {name} " in tree for name in raised)
