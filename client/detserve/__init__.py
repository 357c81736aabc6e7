"""From a detector checkpoint to a measured, guarded Triton deployment.

::

    import detserve

    detector = detserve.build("yolo11n.onnx")
    with detserve.serve(detector) as client:
        found = client.detect("street.jpg")
        print(found.of("person").xyxy)

Each name is loaded when it is first used: ``import detserve`` by itself loads no other module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detserve.building import Detector, build
    from detserve.serving import serve
    from detserve_builder.errors import BuildError
    from detserve_client.async_client import AsyncClient
    from detserve_client.client import Client
    from detserve_client.results.outcomes import Detected, Failed, Outcome
    from detserve_client.video.detection import DetectedFrame
    from detserve_core.datasets.errors import DatasetError
    from detserve_core.detections import Detection, Detections
    from detserve_core.errors import (
        AccessDenied,
        CardError,
        ContractViolation,
        DeadlineExceeded,
        DetserveError,
        EndpointError,
        InferenceError,
        MissingExtra,
        ModelNotFound,
        OutputError,
        Overloaded,
        PortTaken,
        RepositoryError,
        RequestRejected,
        SecurityError,
        ServerFault,
        ServerStartError,
        ServerUnavailable,
        SourceError,
    )
    from detserve_core.security import Security
    from detserve_server.errors import BackendNotCompiled, ServerStopped

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "BackendNotCompiled",
    "BuildError",
    "CardError",
    "Client",
    "ContractViolation",
    "DatasetError",
    "DeadlineExceeded",
    "Detected",
    "DetectedFrame",
    "Detection",
    "Detections",
    "Detector",
    "DetserveError",
    "EndpointError",
    "Failed",
    "InferenceError",
    "MissingExtra",
    "ModelNotFound",
    "Outcome",
    "OutputError",
    "Overloaded",
    "PortTaken",
    "RepositoryError",
    "RequestRejected",
    "Security",
    "SecurityError",
    "ServerFault",
    "ServerStartError",
    "ServerStopped",
    "ServerUnavailable",
    "SourceError",
    "build",
    "serve",
]

_MODULES = {
    "detserve.building": ("Detector", "build"),
    "detserve.serving": ("serve",),
    "detserve_builder.errors": ("BuildError",),
    "detserve_client.async_client": ("AsyncClient",),
    "detserve_client.client": ("Client",),
    "detserve_client.results.outcomes": ("Detected", "Failed", "Outcome"),
    "detserve_client.video.detection": ("DetectedFrame",),
    "detserve_core.datasets.errors": ("DatasetError",),
    "detserve_core.detections": ("Detection", "Detections"),
    "detserve_core.security": ("Security",),
    "detserve_server.errors": ("BackendNotCompiled", "ServerStopped"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # a type checker knows the names above and no others

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULE_OF.get(name, "detserve_core.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
