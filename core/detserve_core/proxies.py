"""Proxies that the environment names: gRPC goes through one on its own, the HTTP client here through none."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from detserve_core.endpoint import is_loopback

_GRPC_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # of these gRPC takes the first that is set
_NOT_GRPC_VARIABLES = ("no_grpc_proxy", "no_proxy")
_VARIABLES = {*_GRPC_VARIABLES, "all_proxy"}


def is_this_machine(host: str) -> bool:
    """Whether ``host`` is a loopback address, or the one that means all of this machine's."""
    return is_loopback(host) or host in ("0.0.0.0", "::")  # noqa: S104


def grpc_arguments(host: str) -> list[tuple[str, int]]:
    """Arguments of a gRPC channel to ``host``: no proxy is asked for what is on this machine."""
    return [("grpc.enable_http_proxy", 0)] if is_this_machine(host) else []


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that talks to a server of this machine only."""
    return {name: value for name, value in environment.items() if name.lower() not in _VARIABLES}


def grpc_proxy(url: str) -> str:
    """A clause on the proxy that gRPC takes to ``grpc[s]://HOST``, and how to do without; "" where none."""
    host = urlsplit(url).hostname or ""
    name = next((name for name in _GRPC_VARIABLES if name in os.environ), "")
    proxy = urlsplit(os.environ.get(name, ""))
    if proxy.scheme.lower() != "http" or not proxy.hostname or not url.startswith("grpc"):
        return ""
    except_name = next((each for each in _NOT_GRPC_VARIABLES if each in os.environ), "no_proxy")
    excepted = [entry.strip() for entry in os.environ.get(except_name, "").split(",")]
    if is_this_machine(host) or any(_matches(host, entry) for entry in excepted if entry):
        return ""
    where = proxy.netloc.rpartition("@")[2]
    return f"the way is through the proxy {where} of {name}; to go without it, add {host} to {except_name}"


def unused_http_proxy(url: str) -> str:
    """The variable that names a proxy for ``http[s]://HOST``, "" where none does."""
    parts = urlsplit(url)
    proxies, host = getproxies_environment(), parts.hostname or ""
    if parts.scheme not in ("http", "https") or is_this_machine(host) or proxy_bypass(host):
        return ""
    found = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    return f"{found}_proxy" if found else ""


def _matches(host: str, entry: str) -> bool:
    """As gRPC compares: the end of a name, or a network that holds the address."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host.lower().endswith(entry.lower())
