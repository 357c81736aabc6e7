"""What this package raises on purpose.

::

    DetserveError
    ├── BackendNotCompiled    the backend for pipelines in the server's process cannot be made here
    ├── ServerStopped         a server that was serving ended by itself
    ├── ProbeError            a Triton that is asked how it behaves gives no answer
    ├── GatewayError          the gateway cannot be configured or started
    ├── KeyFileError          a file of API keys cannot be read, or has no such key
    ├── DurationError         a span of time that cannot be read
    ├── ComposeError          docker or the compose file does not give what is asked
    ├── CertificateError      a certificate cannot be made or read
    ├── SigningKeyError       a file has no usable Ed25519 key
    ├── SignatureError        a repository is not, to the last file, what was signed
    ├── AuditError            the audit log cannot be written or read
    ├── AuditBroken           the audit log is not what its collector wrote
    └── RolloutError          a roll-out cannot go on; the text says how if the old server lacks traffic
"""

from __future__ import annotations

from detserve_core.errors import DetserveError


class BackendNotCompiled(DetserveError):
    """The backend that runs pipelines in the server's process cannot be compiled on this machine."""


class ServerStopped(DetserveError):
    """A server that was serving ended by itself."""


class ProbeError(DetserveError):
    """A Triton that is asked how it behaves gives no answer, or none to rely on."""


class GatewayError(DetserveError):
    """The gateway cannot be configured or started."""


class KeyFileError(DetserveError):
    """A file of API keys cannot be read, or has no such key."""


class DurationError(DetserveError):
    """A span of time cannot be read."""


class ComposeError(DetserveError):
    """Docker, or the compose file, does not give what is asked."""


class CertificateError(DetserveError):
    """A certificate cannot be made or read."""


class SigningKeyError(DetserveError):
    """A file has no usable Ed25519 key."""


class SignatureError(DetserveError):
    """A repository is not, to the last file, what was signed."""


class AuditError(DetserveError):
    """The audit log cannot be written or read."""


class AuditBroken(DetserveError):
    """The audit log is not what its collector wrote; the text names the first line that is wrong."""


class RolloutError(DetserveError):
    """A roll-out cannot go on; the old server has all the traffic, or the text says how it gets it."""
