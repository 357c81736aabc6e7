"""Everything detserve raises on purpose.

::

    DetserveError                     a mistake somebody can fix; its text is one sentence
    ├── CardError                     a detector card that is wrong or contradicts the graph
    ├── EndpointError                 an address of a server that cannot be understood
    ├── SecurityError                 an API key or certificate that cannot be used
    ├── SourceError                   a picture source that cannot be read on this side
    ├── OutputError                   a result that cannot be written
    ├── MissingExtra                  an optional library is needed and not installed
    ├── RepositoryError               a file of a model repository is not what a build writes
    ├── ServerStartError              the embedded server cannot start
    │   └── PortTaken                 a port it was told to listen on is in use
    └── InferenceError                the server, or the way to it, gave no detections
        ├── ServerUnavailable         connection refused, connection lost, server not ready
        ├── DeadlineExceeded          no answer in time
        ├── ModelNotFound             no such model, or not loaded
        ├── RequestRejected           the request is wrong: a bad picture, a threshold out of range
        ├── Overloaded                the server's queue is full or the request waited too long there
        ├── AccessDenied              the server or gateway refuses this client
        ├── ServerFault               the server failed in a way the request is not to blame for
        └── ContractViolation         the answer does not follow the detserve contract

A bug of detserve is any other exception; it keeps its traceback.
"""

from __future__ import annotations


class DetserveError(Exception):
    """A user's mistake. ``str(error)`` is one sentence: what was given, what was expected, how to fix it."""


class CardError(DetserveError):
    """A detector card is wrong or contradicts its graph."""


class EndpointError(DetserveError):
    """The address of a server cannot be understood."""


class SecurityError(DetserveError):
    """An API key or a certificate cannot be used."""


class SourceError(DetserveError):
    """A picture source cannot be read on this side."""


class OutputError(DetserveError):
    """A result cannot be written."""


class MissingExtra(DetserveError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(library, extra)  # both, so that it can be pickled

    def __str__(self) -> str:
        """The sentence."""
        library, extra = self.args
        return f"{library} is not installed; install it with: pip install 'detserve[{extra}]'"


class RepositoryError(DetserveError):
    """A file of a model repository is not what a build writes, or is absent."""


class ServerStartError(DetserveError):
    """The embedded server cannot start; the text says in one sentence why."""


class PortTaken(ServerStartError):
    """A port the server was told to listen on is in use."""


class InferenceError(DetserveError):
    """The server, or the way to it, gave no detections."""


class ServerUnavailable(InferenceError):
    """Connection refused, connection lost, or the server is not ready."""


class DeadlineExceeded(InferenceError):
    """No answer came in time."""


class ModelNotFound(InferenceError):
    """The server has no such model, or has not loaded it."""


class RequestRejected(InferenceError):
    """The request is wrong: a picture that cannot be decoded, a threshold out of range, a wrong dtype."""


class Overloaded(InferenceError):
    """The server's queue is full, or the request waited there for too long."""


class AccessDenied(InferenceError):
    """The server or gateway refuses this client."""


class ServerFault(InferenceError):
    """The server failed in a way the request is not to blame for."""


class ContractViolation(InferenceError):
    """The answer does not follow the detserve contract."""
