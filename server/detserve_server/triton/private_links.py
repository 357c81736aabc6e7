"""What Triton is given to read is in a private folder: any repository, under a path that it can take.

Its python backend hands paths to a shell, and splits a line at spaces.
"""

from __future__ import annotations

import os
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


def folder_of_links(repository: Path, folder: Path) -> Path:
    """A copy of ``repository`` in ``folder`` whose files are links: what Triton reads.

    Its path is plain, and the bytecode that Python writes beside a model.py does not get into the repository,
    where a signature would not cover it.
    """
    links = folder / "repository"
    for place, _, files in os.walk(repository, followlinks=True):
        if Path(place).name == "__pycache__":
            continue
        target = links / Path(place).relative_to(repository)
        target.mkdir(parents=True)
        for name in files:
            (target / name).symlink_to(Path(place) / name)
    return links
