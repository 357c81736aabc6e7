"""The file of keys, and what nginx reads of it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from detserve_client.files import write_whole
from detserve_server.errors import KeyFileError
from detserve_server.gateway.configuration import limit_directives
from detserve_server.gateway.settings import Limits
from detserve_server.keys.key import KeyRecord


class KeyFile(BaseModel):
    """``keys.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[KeyRecord, ...] = ()

    def find(self, key_id: str) -> KeyRecord:
        """The key with this id; raises :class:`KeyFileError` when there is none."""
        for key in self.keys:
            if key.id == key_id:
                return key
        known = ", ".join(key.id for key in self.keys) or "none"
        raise KeyFileError(f"no key has the id {key_id!r}; the file has {known}")

    def replaced(self, key: KeyRecord) -> KeyFile:
        """The same keys with the one of this id exchanged."""
        return KeyFile(keys=tuple(key if other.id == key.id else other for other in self.keys))


def read_keys(path: Path) -> KeyFile:
    """Read ``keys.json``; raises :class:`KeyFileError` when it is not there or is not what this writes."""
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise KeyFileError(
            f"{path} does not exist; make a first key with: detserve keys create --keys {path} --client NAME"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise KeyFileError(f"{path} is no file of keys: {where}: {first['msg']}") from None


def change_keys(path: Path, change: Callable[[KeyFile], KeyFile]) -> None:
    """Change ``keys.json`` and ``keys.conf`` beside it, each whole, one writer at a time.

    Raises :class:`KeyFileError`; the files are then as they were.
    """
    with _locked(path):
        changed = change(read_keys(path) if path.exists() else KeyFile())
        write_whole(path, (changed.model_dump_json(indent=2) + "\n").encode(), mode=0o600)
        write_whole(nginx_file(path), nginx_keys(changed).encode(), mode=0o600)


def nginx_file(path: Path) -> Path:
    """The ``keys.conf`` of a ``keys.json``."""
    return path.with_suffix(".conf")


def nginx_keys(file: KeyFile) -> str:
    """What nginx includes: hash and expiry, client, models and limits of each key that is not revoked."""
    live = [key for key in file.keys if key.revoked is None]
    blocks = [
        _map("$detserve_key_id", "$detserve_key_record", {key.id: _record(key) for key in live}),
        _map("$detserve_identity", "$detserve_client", {key.id: key.client for key in live}),
        _map("$detserve_identity", "$detserve_models", {key.id: _models(key) for key in live}),
    ]
    for limits in sorted({key.limits for key in live}, key=_by_values):
        name = _by_name(limits)
        held = {key.id: key.id for key in live if key.limits == limits}
        blocks.append(_map("$detserve_identity", f"$detserve_limited_{name}", held))
        blocks.append("\n".join(limit_directives(limits, f"$detserve_limited_{name}", name)))
    return "# Written by detserve keys; hashes only.\n" + "\n".join(blocks) + "\n"


def _record(key: KeyRecord) -> str:
    return key.hash if key.expires is None else f"{key.hash},{max(1, int(key.expires.timestamp()) - 1)}"


def _models(key: KeyRecord) -> str:
    return "*" if key.models is None else f",{','.join(key.models)},"


def _by_values(limits: Limits) -> tuple[float, int]:
    return limits.rate_per_s, limits.concurrency


def _by_name(limits: Limits) -> str:
    """A name that says the values: nginx keeps a zone's counters over a reload when its name stays."""
    return f"{limits.rate_per_s:g}_{limits.concurrency}".replace(".", "d").replace("+", "").replace("-", "m")


def _map(source: str, target: str, entries: dict[str, str]) -> str:
    rows = "".join(f'    "{key}" "{value}";\n' for key, value in entries.items())
    return f'map {source} {target} {{\n    default "";\n{rows}}}'


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written ({error.strerror})") from None
