"""Whether a gateway goes by the present file of keys: it shows the file's serial."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from detserve_server.errors import GatewayError
from detserve_server.gateway.keys.gateways import KnownGateway
from detserve_server.gateway.keys.nginx import read_serial
from detserve_server.gateway.keys.store import nginx_file

WAIT_S = 10.0
_ASK_S = 2.0
_POLL_S = 0.1  # the gateway answers 10 a second

#: nginx's old workers, which know the old keys, accept connections beside the new ones for .1 s.
_TIMES_IN_A_ROW, _BETWEEN_S = 6, 0.05

_EARLIER = "it shows the keys of an earlier file"
_ANSWER = re.compile(rb'\{"serial":"([0-9a-f]*)"\}')


class Acknowledged(NamedTuple):
    """After how long a gateway showed the file's serial; None, and in a few words why, when it did not.

    ``listens`` is whether anybody answered, ``earlier`` whether it showed the keys of another file.
    """

    gateway: KnownGateway
    after_s: float | None
    fault: str = ""
    listens: bool = True
    earlier: bool = False


def wait_until_in_force(
    keys: Path, gateways: Sequence[KnownGateway], *, ca: Path | None = None, wait_s: float = WAIT_S
) -> list[Acknowledged]:
    """Ask each gateway until it shows the serial of the file as it then is, on new connections in a row.

    Where a name has several addresses, each is asked.

    No key is sent. A certificate is checked, against ``ca`` or the system's authorities, except on loopback.
    """
    path = nginx_file(keys)
    places = [(gateway, address) for gateway in gateways for address in _addresses(gateway.url)]
    with ThreadPoolExecutor(max(1, len(places))) as pool:
        return list(pool.map(lambda place: _wait(path, place[0], place[1], ca, wait_s), places))


def _addresses(url: str) -> list[str]:
    """What the host of ``url`` means; the host itself where that is not known, which says why when asked."""
    host, port = str(urlsplit(url).hostname), urlsplit(url).port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [host]
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _wait(path: Path, gateway: KnownGateway, address: str, ca: Path | None, wait_s: float) -> Acknowledged:
    context = _context(gateway.url, ca)
    started_s = time.monotonic()
    seen, in_a_row, first_s = "", 0, 0.0
    fault, listens = "", False
    while (waited_s := time.monotonic() - started_s) < wait_s:
        try:
            shown = _shown(gateway.url, address, context)
        except OSError as error:
            fault, in_a_row = f"it does not answer ({_reason(error)})", 0
            if isinstance(error, ConnectionRefusedError) and gateway.guessed_from:
                break
        else:
            listens = True
            if shown == http.HTTPStatus.TOO_MANY_REQUESTS:
                fault = fault or "it answers 429, this address asks it too often"
            elif isinstance(shown, int):
                fault, in_a_row = f"it answers {shown} instead of showing which keys are in force", 0
            elif shown != read_serial(path):
                fault, in_a_row = _EARLIER, 0
            else:
                in_a_row = in_a_row + 1 if shown == seen else 1
                first_s = waited_s if in_a_row == 1 else first_s
                seen = shown
                if in_a_row == _TIMES_IN_A_ROW:
                    return Acknowledged(gateway, first_s)
                time.sleep(_BETWEEN_S)
                continue
        time.sleep(_POLL_S)
    return Acknowledged(gateway, None, fault, listens, earlier=fault == _EARLIER)


def _shown(url: str, address: str, context: ssl.SSLContext) -> str | int:
    """The serial that the gateway shows at one of its addresses, or the status that it answers instead."""
    host, port = str(urlsplit(url).hostname), urlsplit(url).port
    connection = http.client.HTTPSConnection(host, port, timeout=_ASK_S, context=context)
    try:
        raw = socket.create_connection((address, port), timeout=_ASK_S)
        connection.sock = context.wrap_socket(raw, server_hostname=host)
        connection.request("GET", "/gateway/keys", headers={"Connection": "close"})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            return answer.status
        found = _ANSWER.fullmatch(answer.read(100))
        return found[1].decode() if found else answer.status
    except http.client.HTTPException:
        raise OSError("what it says is not HTTP") from None
    finally:
        connection.close()


def _context(url: str, ca: Path | None) -> ssl.SSLContext:
    if _is_loopback(str(urlsplit(url).hostname)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise GatewayError(f"{ca} cannot be read as certificates of authorities ({error})") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}; give its authority with --ca"
    return error.strerror or str(error) or type(error).__name__
