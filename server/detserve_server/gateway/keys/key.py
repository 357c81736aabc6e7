"""One API key: how it is made, what is kept of it."""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from detserve_server.gateway.settings import RateLimits

PREFIX = "dsk"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]


class KeyRecord(BaseModel):
    """What is kept of a key. ``hash`` is of its 256-bit random secret, which is not kept.

    ``models`` None means every model; ``expires`` None means never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    client: Name
    hash: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")]
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] | None = None
    limits: RateLimits = RateLimits()
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


def utc_now() -> datetime:
    """Now, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def new_key(client: str, **fields: Any) -> tuple[str, KeyRecord]:
    """A new key's text, to be shown once, and what to keep of it."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    record = KeyRecord(
        id=key_id, client=client, hash=secret_hash(key_id, secret), created=utc_now(), **fields
    )
    return f"{PREFIX}_{key_id}_{secret}", record


def secret_hash(key_id: str, secret: str) -> str:
    """What nginx's secure_link computes: MD5, base64url without padding.

    A slow password hash slows down guessing; there is nothing to guess in 256 random bits. MD5's weakness,
    collisions, would need an attacker who chooses both the key and what is kept of it.
    """
    digest = hashlib.md5(f"{key_id}:{secret}".encode(), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
