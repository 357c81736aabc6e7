"""Files that appear whole or not at all."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from detserve_client.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary sibling; folders on the way are made.

    Raises:
        OutputError: the file cannot be written. A file that was there before is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
