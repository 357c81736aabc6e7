from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import detserve_client

HEAVY = [
    "PIL",
    "aiohttp",
    "av",
    "cv2",
    "grpc",
    "httptools",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "rich",
    "supervision",
    "torch",
    "tritonclient",
    "typer",
]


OURS = ("detserve_client.", "detserve_core.")
ASYNC = "card close detect detect_batch detect_stream frame_transfer model models ready"
TRANSPORT = (
    "close infer model_config models ready register_region server_ready shared_regions unregister_region"
)


def loaded_by(code: str) -> set[str]:
    report = f"{code}\nimport sys, json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_loads_no_heavy_library() -> None:
    assert loaded_by("import detserve_client").isdisjoint(HEAVY)


@pytest.mark.parametrize("unused", ["onnx", "onnxruntime", "cv2", "supervision", "tritonclient", "grpc"])
def test_the_command_loads_no_heavy_library(unused: str) -> None:
    assert unused not in loaded_by("import detserve_client.commands.detect")


PUBLIC = {
    "AccessDenied": "",
    "AsyncClient": ASYNC,
    "AsyncFakeTransport": TRANSPORT,
    "AsyncTransport": TRANSPORT,
    "Card": "from_json load to_json",
    "CardError": "",
    "ContractViolation": "",
    "DeadlineExceeded": "",
    "Detected": "get",
    "Detection": "",
    "Client": ASYNC + " evaluate labels video",
    "DetectionRequest": "count picture",
    "Detections": "above area class_id confidence draw empty labels of to_coco to_dicts to_supervision xyxy",
    "DetserveError": "",
    "Endpoint": "address parse secured",
    "EndpointError": "",
    "Failed": "get",
    "FakeTransport": TRANSPORT,
    "FrameTransfer": "",
    "InferenceError": "",
    "MissingExtra": "",
    "ModelNotFound": "",
    "Outcome": "",
    "OutputError": "",
    "Overloaded": "",
    "PictureSource": "",
    "RequestRejected": "",
    "Security": "from_environment grpc_credentials headers metadata ssl_context",
    "SecurityError": "",
    "ServerFault": "",
    "ServerUnavailable": "",
    "SourceError": "",
    "Transport": TRANSPORT,
}


def test_the_public_surface_is_this_and_no_more() -> None:
    """A name or method that is added or removed is a decision, made here too."""
    assert sorted(PUBLIC) == detserve_client.__all__
    for name, methods in PUBLIC.items():
        value = getattr(detserve_client, name)
        if not isinstance(value, type):
            continue
        ours = [kind for kind in value.__mro__ if kind.__module__.startswith(OURS)]
        found = {
            member
            for kind in ours
            for member, what in vars(kind).items()
            if not member.startswith("_") and (callable(what) or isinstance(what, (classmethod, property)))
        }
        assert found == set(methods.split()), name


def test_both_clients_take_the_same_arguments() -> None:
    for name in set(ASYNC.split()) - {"model"}:
        threaded = inspect.signature(getattr(detserve_client.Client, name)).parameters
        looped = inspect.signature(getattr(detserve_client.AsyncClient, name)).parameters
        assert list(threaded) == list(looped)
        assert [p.default for p in threaded.values()] == [p.default for p in looped.values()]


def test_every_public_name_is_listed() -> None:
    public = {
        name
        for name, value in vars(detserve_client).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(OURS)
    }
    assert public <= set(detserve_client.__all__)
    assert list(detserve_client.__all__) == sorted(detserve_client.__all__)
    assert all(hasattr(detserve_client, name) for name in detserve_client.__all__)


def test_every_error_of_the_package_is_exported_and_drawn_in_the_tree() -> None:
    from detserve_core import errors

    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.DetserveError)
    }
    of_serving = {"RepositoryError", "PortTaken", "ServerStartError"}
    assert raised - of_serving <= set(detserve_client.__all__)
    tree = errors.__doc__ or ""
    assert all(f" {name} " in tree or f"    {name} " in tree for name in raised)
