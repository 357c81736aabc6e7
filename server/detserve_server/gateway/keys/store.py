"""The file of keys, and what nginx reads of it."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from detserve_core.machine.whole_files import blamed_on, link_target, owned_as_folder, rewritten
from detserve_server.errors import KeyFileError
from detserve_server.gateway.keys.key import KeyRecord
from detserve_server.gateway.keys.nginx import marked, nginx_keys, read_marked
from detserve_server.regular_file import read_regular

_MOST_BYTES = 2**28  # 100,000 keys are some 40 MB


class KeyFile(BaseModel):
    """``keys.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[KeyRecord, ...] = ()

    def find(self, key_id: str) -> KeyRecord:
        """The key with this id; raises :class:`KeyFileError` when there is none."""
        for key in self.keys:
            if key.id == key_id:
                return key
        known = ", ".join(key.id for key in self.keys[:20]) or "none"
        known += f" and {len(self.keys) - 20} more" if len(self.keys) > 20 else ""
        raise KeyFileError(f"no key has the id {key_id!r}; the file has {known}")

    def replaced(self, key: KeyRecord) -> KeyFile:
        """The same keys with the one of this id exchanged."""
        return KeyFile(keys=tuple(key if other.id == key.id else other for other in self.keys))


def read_keys(path: Path) -> KeyFile:
    """Read ``keys.json``; raises :class:`KeyFileError` when it is not there or is not what this writes."""
    try:
        with _no_collection():
            return KeyFile.model_validate_json(read_regular(path, _MOST_BYTES))
    except FileNotFoundError:
        raise KeyFileError(
            f"{path} does not exist; make a first key with: detserve keys create --keys {path} --client NAME"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise KeyFileError(f"{path} is not a file of keys: {where}: {first['msg']}") from None


@contextmanager
def _no_collection() -> Iterator[None]:
    """100,000 keys are changed in 2 s; in 4 s where Python looks for garbage among them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def keys_for_nginx(path: Path) -> bytes:
    """What nginx includes for a ``keys.json``: the ``keys.conf`` beside it if that is of it, else made again.

    Raises :class:`KeyFileError`.
    """
    with suppress(OSError):
        if (written := read_marked(nginx_file(path), read_regular(path, _MOST_BYTES))) is not None:
            return written
    return nginx_keys(read_keys(path)).encode()


def change_keys(path: Path, change: Callable[[KeyFile], KeyFile]) -> None:
    """Change ``keys.json`` and ``keys.conf`` beside it, each whole, one writer at a time.

    ``path`` may be a link: both files are where it points to. They keep their owner and mode. New ones are
    for their owner alone, which is their folder's where root makes them: the gateway's user must read them.

    ``keys.conf`` takes its name first, so that no key is called revoked that nginx still lets in. An error
    between the two puts ``keys.conf`` back. A process that is killed there leaves a list that is older than
    what nginx reads: ``detserve keys list`` says so, ``detserve keys render`` or the next change fixes it.

    Raises:
        KeyFileError: the file cannot be read.
        OutputError: a file cannot be written. Both are then as they were.
    """
    target = link_target(path)
    with _locked(target), _no_collection():
        changed = change(read_keys(target) if target.exists() else KeyFile())
        text = changed.model_dump_json(indent=2).encode() + b"\n"
        nginx, nginx_text = nginx_file(target), marked(nginx_keys(changed), text)
        before = nginx.read_bytes() if nginx.is_file() else None
        replaced = False
        try:
            with rewritten(target, text):
                with rewritten(nginx, nginx_text):
                    pass
                replaced = True
        except BaseException:
            if replaced:
                _put_back(nginx, before)
            raise


def nginx_file(path: Path) -> Path:
    """The ``keys.conf`` of a ``keys.json``, beside it; where that is a link, beside what it points to."""
    target = link_target(path)
    if target.suffix == ".conf":
        raise KeyFileError(f"{path} has the name of the file that nginx reads; give the .json beside it")
    return target.with_suffix(".conf")


def _put_back(path: Path, before: bytes | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    else:
        with rewritten(path, before):
            pass


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    with blamed_on(path):
        _make_folder(path.parent)
        # For reading, so that a lock that another user made will do.
        with os.fdopen(os.open(lock, os.O_RDONLY | os.O_CREAT, 0o644)) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            owned_as_folder(lock)
            yield


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        owned_as_folder(folder)
