"""Pictures in, detections out: the client of a detector served by detserve."""

from detserve_client.card import Card
from detserve_client.client import DetectionClient, Outcome
from detserve_client.detections import Detection, Detections
from detserve_client.endpoint import Endpoint
from detserve_client.errors import (
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
from detserve_client.pictures import PictureSource
from detserve_client.security import Security
from detserve_client.transports import FakeTransport, GrpcTransport, HttpTransport, Transport

__all__ = [
    "AccessDenied",
    "Card",
    "CardError",
    "ContractViolation",
    "DeadlineExceeded",
    "Detection",
    "DetectionClient",
    "Detections",
    "DetserveError",
    "Endpoint",
    "EndpointError",
    "FakeTransport",
    "GrpcTransport",
    "HttpTransport",
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
