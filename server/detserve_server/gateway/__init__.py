"""The gateway: nginx between the network and Triton, configured from one settings model."""

from detserve_server.gateway.configuration import render
from detserve_server.gateway.settings import GatewaySettings, RateLimits, Upstream

__all__ = ["GatewaySettings", "RateLimits", "Upstream", "render"]
