"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR
from pathlib import Path

from detserve_client.errors import OutputError


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an :class:`OutputError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling that takes the name ``path`` when the block ends well, else is removed.

    Folders on the way are made. A block that writes nothing leaves nothing. What the block itself raises
    is passed on; a file that was there before is then left as it was.

    Raises:
        OutputError: the folder cannot be made, or the file cannot take its name.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with blamed_on(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "it is a folder")
        yield temporary
        with blamed_on(path):
            if temporary.exists():
                temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file through a temporary sibling; folders on the way are made. ``mode`` is less the umask.

    Raises:
        OutputError: the file cannot be written. A file that was there before is left as it was.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with (
        whole_file(path) as temporary,
        blamed_on(path),
        os.fdopen(os.open(temporary, flags, mode), "wb") as file,
    ):
        file.write(content)
