"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from detserve_core.errors import OutputError


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into an :class:`OutputError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file that takes the place of ``path`` when the block ends well, else is removed.

    Folders on the way are made. A block that writes nothing leaves nothing. What the block itself raises
    is passed on; a file that was there before is then left as it was. A link stays, and what it points to is
    replaced. A device or a pipe stays too: the content is written into it.

    Raises:
        OutputError: the folder cannot be made, or the file cannot be written.
    """
    if _is_stream(path):
        with tempfile.TemporaryDirectory(prefix="detserve-") as folder:
            temporary = Path(folder) / (path.name or "output")
            yield temporary
            if temporary.exists():
                with blamed_on(path), temporary.open("rb") as content, _opened_stream(path) as stream:
                    shutil.copyfileobj(content, stream)
        return
    target = link_target(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with blamed_on(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
        yield temporary
        with blamed_on(path):
            if temporary.exists():
                temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _descriptor(path: Path) -> int | None:
    """The number of this process's descriptor that ``path`` names, as ``/dev/stdout`` does; else None."""
    found = re.fullmatch(r"/(?:dev|proc/self)/(?:fd/(\d+)|(stdin|stdout|stderr))", str(path))
    if found is None:
        return None
    return int(found[1]) if found[1] else ("stdin", "stdout", "stderr").index(found[2])


def _opened_stream(path: Path) -> IO[bytes]:
    """Opened for writing. What a descriptor has been given before stays, as in ``>> log``."""
    descriptor = _descriptor(path)
    if descriptor is None:
        return path.open("wb")
    if sys.stdout is not None:
        sys.stdout.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _is_stream(path: Path) -> bool:
    """Whether it is a device, a pipe, or a descriptor of this process, such as a shell's ``>(command)``."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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


@contextmanager
def rewritten(path: Path, content: bytes, *, mode: int = 0o600) -> Iterator[None]:
    """Have a file's new content written beside it; it takes the file's name when the block ends well.

    For a file that others read while somebody else changes it, as root does a container's:

    - What is there keeps its owner, group and mode. A new file has ``mode`` and, where root makes it, its
      folder's owner.
    - ``path`` may be a link: what it points to is replaced, the link stays.

    Raises:
        OutputError: the file cannot be written, or not for its owner. It is then as it was.
    """
    target = link_target(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with whole_file(target) as temporary:
        with (
            blamed_on(path),
            os.fdopen(os.open(temporary, flags, mode if not target.exists() else 0o600), "wb") as file,
        ):
            _keep_owner(file.fileno(), target)
            file.write(content)
        yield


def link_target(path: Path) -> Path:
    """The file that ``path`` stands for, through all links; it need not be there.

    Raises:
        OutputError: the links lead to themselves.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OutputError(f"{path} cannot be written: {os.strerror(errno.ELOOP)}")
    return target


def owned_as_folder(path: Path) -> None:
    """Give what root has just made, a file or a folder, to the owner of the folder it is in."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def _keep_owner(descriptor: int, target: Path) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        if os.geteuid() == 0:
            folder = target.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        return
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError:
            raise OutputError(
                f"{target} is of user {old.st_uid} and group {old.st_gid}: that user or root may change it"
            ) from None
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
