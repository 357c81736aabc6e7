"""The secret in the header that proves to Triton that a request came through the gateway."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import GatewayError

#: What only the gateway may call; health stays open for probes.
GATEWAY_PROTOCOLS = ("inference", "metadata", "model-config", "statistics")


def new_secret() -> str:
    """256 random bits as hexadecimal digits."""
    return secrets.token_hex(32)


def write_secret(nginx_file: Path, triton_file: Path, secret: str) -> None:
    """Write the secret for nginx (``GatewaySettings.secret``) and, as an environment file, for Triton."""
    write_whole(nginx_file, f'map "" $detserve_secret {{\n    default "{secret}";\n}}\n'.encode(), mode=0o600)
    write_whole(triton_file, f"DETSERVE_GATEWAY_SECRET={secret}\n".encode(), mode=0o600)


def read_secret(triton_file: Path) -> str:
    """The secret in an environment file; raises :class:`GatewayError` when there is none."""
    if triton_file.exists() and not triton_file.is_file():  # a pipe would be waited for
        raise GatewayError(f"{triton_file} is not a file; remove it and render the gateway again")
    try:
        content = triton_file.read_bytes()
    except OSError as error:
        raise GatewayError(
            f"{triton_file} cannot be read ({error.strerror}); remove it and render the gateway again"
        ) from None
    found = re.search(rb"^DETSERVE_GATEWAY_SECRET=([0-9a-f]{64})$", content, re.MULTILINE)
    if not found:
        raise GatewayError(f"{triton_file} has no secret; remove it and render the gateway again")
    return found[1].decode()
