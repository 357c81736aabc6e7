"""The command line and environment of the embedded tritonserver."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from detserve_core.contract import GATEWAY_HEADER, SCOPE_HEADER
from detserve_core.machine.ports import LOOPBACK
from detserve_server.gateway.shared_secret import GATEWAY_PROTOCOLS
from detserve_server.triton.distribution import TritonDistribution

_SHARED_MEMORY = "shared-memory"
#: Closed on gRPC and HTTP alike: what changes the server, and what reads files or memory of this machine.
CLOSED_PROTOCOLS = (_SHARED_MEMORY, "model-repository", "trace", "logging")

#: How long a server that stops goes on with the requests in flight and then with its models' ``finalize``.
EXIT_TIMEOUT_S = 10

#: By default glibc gives every picture buffer back to the kernel and asks for it again at the next request.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}


def server_arguments(
    binary: Path,
    repository: Path,
    *,
    backends: Path,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    region_prefix: str,
    models: Sequence[str] | None = None,
    gateway_secret: str | None = None,
    allow_shared_memory: bool = False,
) -> list[str]:
    """The command line: loopback only, no model control, closed protocols, strict readiness."""
    protocols = [name for name in CLOSED_PROTOCOLS if name != _SHARED_MEMORY or not allow_shared_memory]
    restricted = [f"{','.join(protocols)}:detserve-{secrets.token_hex(4)}={secrets.token_hex(16)}"]
    if gateway_secret is not None:
        restricted.append(f"{','.join(GATEWAY_PROTOCOLS)}:{GATEWAY_HEADER}={gateway_secret}")
    control = ["none"] if models is None else ["explicit", *(f"--load-model={name}" for name in models)]
    return [
        str(binary),
        f"--model-repository={repository}",
        f"--model-control-mode={control[0]}",
        *control[1:],
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={region_prefix}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={grpc_port}",
        *(f"--grpc-restricted-protocol={protocols}" for protocols in restricted),
        f"--grpc-header-forward-pattern={SCOPE_HEADER}",
        f"--http-address={LOOPBACK}",
        f"--http-port={http_port}",
        *(f"--http-restricted-api={protocols}" for protocols in restricted),
        f"--http-header-forward-pattern={SCOPE_HEADER}",
        f"--http-thread-count={min(8, 2 * (os.cpu_count() or 4))}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--log-format=ISO8601",
    ]


def server_environment(found: TritonDistribution, inherited: Mapping[str, str]) -> dict[str, str]:
    """The inherited environment with what tritonserver and its Python stubs need.

    The stubs embed an isolated interpreter, which ignores ``PYTHONPATH``: it takes the standard library and
    the packages (numpy, cv2, onnxruntime) of the first ``python3`` on ``PATH``.
    """
    libraries = [*map(str, found.library_path), *filter(None, [inherited.get("LD_LIBRARY_PATH")])]
    programs = [str(found.interpreter_dir), *filter(None, [inherited.get("PATH")])]
    return {
        **inherited,
        **ALLOCATOR,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join(programs),
    }
