"""The gateway: nginx between the network and Triton, configured from one settings model."""

from detserve_server.gateway.configuration import render
from detserve_server.gateway.settings import GatewaySettings, Limits, Upstream

__all__ = ["GatewaySettings", "Limits", "Upstream", "render"]
