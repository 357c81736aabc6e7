"""Pictures in, detections out: the client of a detector served by detserve."""

from detserve_client.async_client import AsyncClient
from detserve_client.client import Client
from detserve_client.engine.wire import DetectionRequest
from detserve_client.pictures.encoding import PictureSource
from detserve_client.results.outcomes import Detected, Failed, Outcome
from detserve_client.shared_memory.frames import FrameTransfer
from detserve_client.transports import (
    AsyncFakeTransport,
    AsyncTransport,
    FakeTransport,
    Transport,
)
from detserve_core.card import Card
from detserve_core.detections import Detection, Detections
from detserve_core.endpoint import Endpoint
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
    RequestRejected,
    SecurityError,
    ServerFault,
    ServerUnavailable,
    SourceError,
)
from detserve_core.security import Security

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "AsyncFakeTransport",
    "AsyncTransport",
    "Card",
    "CardError",
    "Client",
    "ContractViolation",
    "DeadlineExceeded",
    "Detected",
    "Detection",
    "DetectionRequest",
    "Detections",
    "DetserveError",
    "Endpoint",
    "EndpointError",
    "Failed",
    "FakeTransport",
    "FrameTransfer",
    "InferenceError",
    "MissingExtra",
    "ModelNotFound",
    "Outcome",
    "OutputError",
    "Overloaded",
    "PictureSource",
    "RequestRejected",
    "Security",
    "SecurityError",
    "ServerFault",
    "ServerUnavailable",
    "SourceError",
    "Transport",
]
