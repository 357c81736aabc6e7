"""Ed25519 keys in PEM files, and signatures over JSON statements.

A statement is signed together with what it is a statement about (its ``subject``), so that a signature made
for one purpose is none for another.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_core.errors import DetserveError, MissingExtra
from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import SigningKeyError
from detserve_server.regular_file import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_LARGEST_KEY_BYTES = 2**16


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one form in which a JSON object is hashed and signed: ASCII, sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def create_key(path: Path) -> Path:
    """Write a new private key (mode 600) to ``path`` and its public half beside it; returns the latter's
    path.

    Raises :class:`SigningKeyError` when either file exists already or cannot be written.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ed25519

    public_path = path.with_name(f"{path.stem}.public{path.suffix or '.pem'}")
    for taken in (path, public_path):
        if taken.exists():
            raise SigningKeyError(f"{taken} exists already; give another path for the new key, or remove it")
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public_pem = private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
        write_whole(public_path, public_pem)
    except (OSError, DetserveError) as error:
        path.unlink(missing_ok=True)
        raise SigningKeyError(f"the key {path} cannot be written ({error})") from None
    return public_path


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key; raises :class:`SigningKeyError` when the file holds none or others may read it."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read(path)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SigningKeyError(
            f"{path} has no unencrypted Ed25519 private key in PEM; make one with --create-key"
        )
    if path.stat().st_mode & 0o007:
        raise SigningKeyError(f"the private key {path} may be read by every user; chmod 600 {path}")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key; raises :class:`SigningKeyError` when the file holds none."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SigningKeyError(
            f"{path} has no Ed25519 public key in PEM; give the *.public.pem written beside the private key"
        )
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """16 hexadecimal digits by which people tell public keys apart."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def signature(key: Ed25519PrivateKey, subject: str, statement: Mapping[str, Any]) -> str:
    """The signature, in base64, of a statement about ``subject``."""
    return base64.b64encode(key.sign(_message(subject, statement))).decode()


def is_signed(key: Ed25519PublicKey, subject: str, statement: Mapping[str, Any], signature: object) -> bool:
    """Whether ``signature`` is that of this statement by the owner of ``key``; anything malformed is not."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(base64.b64decode(str(signature), validate=True), _message(subject, statement))
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(subject: str, statement: Mapping[str, Any]) -> bytes:
    return f"detserve {subject}\n".encode() + canonical_json(statement)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _LARGEST_KEY_BYTES)
    except OSError as error:
        raise SigningKeyError(f"the key {path} cannot be read ({error.strerror})") from None


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise MissingExtra("cryptography", "server") from None
