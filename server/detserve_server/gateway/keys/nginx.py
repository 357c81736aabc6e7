"""What nginx reads of the keys, and which of them it could not hold."""

from __future__ import annotations

import hashlib
import re
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detserve_server.gateway.configuration import limit_directives, requests_per_min
from detserve_server.gateway.keys.key import KeyRecord

if TYPE_CHECKING:
    from detserve_server.gateway.keys.store import KeyFile

#: Of a quoted value: nginx 1.22 takes 4094 characters and says "too long parameter" to 4095.
LONGEST_VALUE = 4094

#: Each costs two zones of memory and two look-ups a request; nginx reads 1,000 in .5 s, 5,000 in 20 s.
MOST_LIMITS = 1000

_SERIAL = re.compile(rb'^map "" \$detserve_keys_serial \{default "([0-9a-f]{16})";\}$', re.MULTILINE)
_SERIAL_WITHIN_BYTES = 400

#: How many keys that are left out are said; one is rare.
MOST_NOTES = 100

_HEAD = "# Written by detserve keys; hashes only. The serial is the gateway's answer to GET /gateway/keys.\n"
_NOTE = "# Key "
_OF = b"# Of the keys.json with SHA-256 "

_Group = tuple[int, int]


class LeftOut(NamedTuple):
    """A key that nginx could not hold, and in one sentence why not."""

    key: KeyRecord
    reason: str


def nginx_keys(file: KeyFile) -> str:
    """What nginx includes: hash and expiry, client, models and limits of each key that is not revoked.

    It begins with the serial, a digest of all the rest, which the gateway shows at ``/gateway/keys``. A key
    that nginx would refuse is not in it (:func:`left_out`): it would keep every change from being read, a
    revocation too.
    """
    groups, refused = _sorted_out(file)
    live = [key for keys in groups.values() for key in keys]
    blocks = [
        f"{_NOTE}{key.id} of {key.client} is left out, nobody enters with it: {why}" for key, why in refused
    ]
    blocks += [
        _map("$detserve_key_id", "$detserve_key_record", [(key.id, _record(key)) for key in live]),
        _map("$detserve_identity", "$detserve_client", [(key.id, key.client) for key in live]),
        _map("$detserve_identity", "$detserve_models", [(key.id, _models(key)) for key in live]),
    ]
    for (per_min, concurrency), keys in sorted(groups.items()):
        # The name says the values: nginx keeps a zone's counters over a reload when its name stays.
        name = f"{per_min}m_{concurrency}"
        variable = f"$detserve_limited_{name}"
        blocks.append(_map("$detserve_identity", variable, [(key.id, key.id) for key in keys]))
        blocks += limit_directives(keys[0].limits, variable, name, clients=len(keys))
    rest = "\n".join(blocks) + "\n"
    return f"{_HEAD}{_serial_line(rest.encode())}\n{rest}"


def marked(text: str, keys_json: bytes) -> bytes:
    """``keys.conf``: :func:`nginx_keys`' text, and in a last line of which ``keys.json`` it is."""
    return b"%s%s%s\n" % (text.encode(), _OF, hashlib.sha256(keys_json).hexdigest().encode())


def read_marked(path: Path, keys_json: bytes) -> bytes | None:
    """The text of a ``keys.conf`` that is whole and of this ``keys.json``, else None.

    For 100,000 keys it takes .1 s, to make it again 2 s.
    """
    try:
        text, _, digest = path.read_bytes().rpartition(_OF)
    except OSError:
        return None
    line, _, rest = text.removeprefix(_HEAD.encode()).partition(b"\n")
    is_whole = line == _serial_line(rest).encode()
    return text if is_whole and digest.strip() == hashlib.sha256(keys_json).hexdigest().encode() else None


def notes_of(text: bytes) -> list[str]:
    """The sentences of a ``keys.conf`` about the keys that it leaves out."""
    return [
        line.decode()[2:] for line in text.splitlines()[2 : MOST_NOTES + 2] if line.startswith(_NOTE.encode())
    ]


def left_out(file: KeyFile) -> list[LeftOut]:
    """The keys that are not revoked and that nginx would refuse."""
    return _sorted_out(file)[1]


def read_serial(path: Path) -> str | None:
    """The serial of a ``keys.conf``; None where there is none, as in one of an earlier version."""
    try:
        with path.open("rb") as file:
            found = _SERIAL.search(file.read(_SERIAL_WITHIN_BYTES))
    except OSError:
        return None
    return found[1].decode() if found else None


def _sorted_out(file: KeyFile) -> tuple[dict[_Group, list[KeyRecord]], list[LeftOut]]:
    """The keys that nginx is told, by what it can tell apart of their limits, and those it is not."""
    groups: dict[_Group, list[KeyRecord]] = {}
    refused, ids = [], set()
    for key in file.keys:
        if key.revoked is not None:
            continue
        limits = key.limits
        group = requests_per_min(limits.rate_per_s), limits.concurrency
        if key.id in ids:
            reason = "another key has the same id, which counts"
        elif key.models is not None and len(_models(key)) > LONGEST_VALUE:
            reason = _too_many_models(key.models)
        elif group not in groups and len(groups) == MOST_LIMITS:
            reason = (
                f"rate and concurrency: got {limits.rate_per_s:g} and {limits.concurrency}, but the "
                f"keys have {MOST_LIMITS} different pairs already, all that nginx is given; take one of those"
            )
        else:
            ids.add(key.id)
            groups.setdefault(group, []).append(key)
            continue
        refused.append(LeftOut(key, reason))
    return groups, refused


def _too_many_models(models: tuple[str, ...]) -> str:
    lengths = accumulate((len(model) + 1 for model in models), initial=1)
    fit = sum(length <= LONGEST_VALUE for length in lengths) - 1
    return (
        f"models: got {len(models)} names of {sum(map(len, models))} letters; the first {fit} fit into "
        f"the {LONGEST_VALUE} that nginx reads, with commas between; make a second key for the others"
    )


def _serial_line(rest: bytes) -> str:
    return f'map "" $detserve_keys_serial {{default "{hashlib.sha256(rest).hexdigest()[:16]}";}}'


def _record(key: KeyRecord) -> str:
    return key.hash if key.expires is None else f"{key.hash},{max(1, int(key.expires.timestamp()) - 1)}"


def _models(key: KeyRecord) -> str:
    return "*" if key.models is None else f",{','.join(key.models)},"


def _map(source: str, target: str, entries: list[tuple[str, str]]) -> str:
    rows = "".join([f'    "{key}" "{value}";\n' for key, value in entries])
    return f'map {source} {target} {{\n    default "";\n{rows}}}'
