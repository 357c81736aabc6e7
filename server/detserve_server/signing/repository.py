"""Signing a model repository, and serving nothing but what was signed.

The signature covers every file under the repository, by path, size and SHA-256: the models' configurations,
Python files and weights, and whatever else lies there. Verifying refuses a file that is not in it, one that
is missing or changed, a symbolic link, a device, and a folder that holds nothing signed.

Two ways around a check of files are closed as well:

- Python runs a ``__pycache__/*.pyc`` instead of the source beside it when size and time in it match, and
  anybody can make one that does. ``__pycache__`` is never signed and always refused.
- A file could be exchanged between the check and the moment Triton reads it. So Triton is given a private
  copy: each file is read once, and what was read is hashed, compared and written to a folder that only this
  user can enter.

An older repository with its own valid signature passes: the signature says who made the files, not when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detserve_core.card import first_mistake
from detserve_core.machine.whole_files import write_whole
from detserve_core.repository.manifest import built_files, changed_files, missing_folders, read_manifests
from detserve_server.errors import SignatureError
from detserve_server.signing.keys import fingerprint, is_signed, signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: Lies in the repository, beside the models' folders, where Triton looks for folders only.
SIGNATURE = "detserve.sig.json"
_PYCACHE = "__pycache__"
_SUBJECT = "repository 1"
_CHUNK_BYTES = 2**20


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    files: dict[str, _File]


@dataclass(frozen=True)
class Signature:
    """What a signature covers. ``unbuilt`` are files that no build's manifest names, e.g. TensorRT plans."""

    path: Path
    key: str
    files: int
    size_bytes: int
    unbuilt: tuple[str, ...] = ()


def sign_repository(repository: Path, key: Ed25519PrivateKey) -> Signature:
    """Sign every file of a repository, and remove ``__pycache__``; the signature appears whole or not at all.

    Raises :class:`SignatureError`: nothing there to sign, a link or device in it, files that are not what the
    build wrote.
    """
    manifests = read_manifests(repository)
    for manifest in manifests:
        if wrong := [*missing_folders(repository, manifest), *changed_files(repository, manifest)]:
            raise SignatureError(
                f"{repository / wrong[0]} is not what the build of {manifest.name} wrote; build it again"
            )
    files = {}
    for folder in repository.rglob(_PYCACHE):
        shutil.rmtree(folder, ignore_errors=True)  # what cannot be removed is refused below
    for name in _files(repository):
        digest, size_bytes = _read(repository / name)
        files[name] = _File(bytes=size_bytes, sha256=digest)
    if not files:
        raise SignatureError(f"{repository} has no file to sign; give the folder that holds the models")
    statement = _Signed(files=files).model_dump(mode="json")
    content = {
        **statement,
        "key": fingerprint(key.public_key()),
        "signature": signature(key, _SUBJECT, statement),
    }
    write_whole(repository / SIGNATURE, json.dumps(content, indent=1).encode() + b"\n")
    built = {name for manifest in manifests for name in built_files(manifest)}
    unbuilt = tuple(sorted(files.keys() - built))
    return Signature(repository / SIGNATURE, content["key"], len(files), _total(files), unbuilt)


def verify_repository(repository: Path, key: Ed25519PublicKey, copy_to: Path | None = None) -> Signature:
    """Check that a repository is what was signed, to the last file; write what was checked to ``copy_to``.

    ``copy_to`` is a folder outside of the repository that does not exist yet; it holds nothing when the
    check fails.

    Raises :class:`SignatureError` naming the first file that is not as it was signed.
    """
    if copy_to is not None:
        _check_copy(repository, copy_to)
    signed = _read_signature(repository, key)
    found = _files(repository)
    if strange := sorted(set(found) - signed.files.keys()):
        raise SignatureError(f"{repository / strange[0]} was not signed; remove it, or sign again")
    if missing := sorted(signed.files.keys() - set(found)):
        raise SignatureError(f"{repository / missing[0]} was signed and is missing; put it back")
    _check_folders(repository, found)
    try:
        for name, file in signed.files.items():
            target = None if copy_to is None else copy_to / name
            if _read(repository / name, target) != (file.sha256, file.bytes):
                raise SignatureError(
                    f"{repository / name} is not the file that was signed; restore it, or sign again"
                )
    except BaseException:
        if copy_to is not None:
            shutil.rmtree(copy_to, ignore_errors=True)
        raise
    return Signature(repository / SIGNATURE, fingerprint(key), len(signed.files), _total(signed.files))


@contextmanager
def verified_copy(repository: Path, key: Ed25519PublicKey) -> Iterator[Path]:
    """A private copy of a repository, made of nothing but what was signed, for as long as the block runs.

    Raises :class:`SignatureError` as :func:`verify_repository` does.
    """
    with tempfile.TemporaryDirectory(prefix="detserve-verified-", ignore_cleanup_errors=True) as private:
        copy = Path(private) / "repository"
        verify_repository(repository, key, copy)
        yield copy


def _check_copy(repository: Path, copy_to: Path) -> None:
    if os.path.lexists(copy_to):
        raise SignatureError(f"{copy_to} exists already; give a new folder for the copy")
    try:
        inside = copy_to.resolve().is_relative_to(repository.resolve())
    except (OSError, RuntimeError) as error:  # links in a circle
        raise SignatureError(f"{copy_to} is not a path for the copy ({error}); give another") from None
    if inside:
        raise SignatureError(
            f"{copy_to} is in the repository {repository}, where the copy would be unsigned files; give a "
            f"folder elsewhere"
        )


def _read_signature(repository: Path, key: Ed25519PublicKey) -> _Signed:
    path = repository / SIGNATURE
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise SignatureError(f"{path} is not a file; remove it and sign again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SignatureError(
            f"{repository} is not signed ({SIGNATURE}: {error.strerror}); sign it with: detserve sign"
        ) from None
    try:
        fields = json.loads(content)
        signed_by, signed = str(fields.pop("key")), fields.pop("signature")
        statement = _Signed.model_validate(fields)
    except ValidationError as error:
        raise SignatureError(first_mistake(error, str(path))) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SignatureError(f"{path} is not a signature of a repository; sign it again") from None
    if not is_signed(key, _SUBJECT, statement.model_dump(mode="json"), signed):
        whose = fingerprint(key)
        other = "" if signed_by == whose else f", it names the key {signed_by}"
        raise SignatureError(f"{path} is not signed with the key {whose}{other}; sign it with that key")
    return statement


def _files(repository: Path) -> list[str]:
    """The paths of all regular files, relative; raises for anything that is neither file nor folder."""
    found = []
    try:
        waiting = [repository.resolve(strict=True)]
        root = waiting[0]
        while waiting:
            for path in sorted(waiting.pop().iterdir()):
                mode = path.lstat().st_mode
                name = path.relative_to(root).as_posix()
                if not name.isprintable():
                    raise SignatureError(
                        f"{repository} holds a name that cannot be printed: {name!a}; rename it"
                    )
                if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    kind = "a symbolic link" if stat.S_ISLNK(mode) else "neither file nor folder"
                    raise SignatureError(
                        f"{repository / name} is {kind}, which no signature covers; put a file there"
                    )
                if path.name == _PYCACHE:
                    raise SignatureError(
                        f"{repository / name} could be run in the place of the signed Python files; "
                        f"remove it: rm -r '{repository / name}'"
                    )
                if stat.S_ISDIR(mode):
                    waiting.append(path)
                elif name != SIGNATURE:
                    found.append(name)
    except OSError as error:
        raise SignatureError(f"{error.filename} cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise SignatureError(f"{repository} is a link that leads to itself; give the folder") from None
    return sorted(found)


def _check_folders(repository: Path, files: list[str]) -> None:
    """Refuse folders without a signed file: Triton takes a numbered one for a version."""
    expected = {parent.as_posix() for name in files for parent in Path(name).parents}
    for path in sorted(repository.resolve().rglob("*")):
        name = path.relative_to(repository.resolve()).as_posix()
        if path.is_dir() and name not in expected:
            raise SignatureError(f"{repository / name} is a folder that was not signed; remove it")


def _read(path: Path, target: Path | None = None) -> tuple[str, int]:
    """The SHA-256 and size of what was read, which is what was written to ``target``."""
    digest, size_bytes = hashlib.sha256(), 0
    try:
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, (target or Path(os.devnull)).open("wb") as copy:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                copy.write(chunk)
    except OSError as error:
        raise SignatureError(f"{path} cannot be read or copied ({error.strerror})") from None
    return digest.hexdigest(), size_bytes


def _total(files: dict[str, _File]) -> int:
    return sum(file.bytes for file in files.values())
