"""Paths that Triton's python backend can take: it hands them to a shell, and splits a line at spaces."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_./+,:@%=~-]*")


def is_plain(path: Path) -> bool:
    """Whether ``path`` is of letters (a to z), digits and marks that mean nothing to a shell."""
    return _PLAIN.fullmatch(str(path)) is not None


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder for as long as the block runs: where temporary files go, or /tmp where that is not plain."""
    where = None if is_plain(Path(tempfile.gettempdir())) else "/tmp"  # noqa: S108 - the folder itself is private
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as folder:
        yield Path(folder)


def plainly_named(repository: Path, folder: Path) -> Path:
    """``repository``, or a link to it that is made in ``folder``, where its own path is not plain."""
    if is_plain(repository):
        return repository
    link = folder / "repository"
    link.symlink_to(repository, target_is_directory=True)
    return link
