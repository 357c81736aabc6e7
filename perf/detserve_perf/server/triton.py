"""What a running Triton says of itself: version, model configuration, statistics."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from detserve_client.engine.faults import error_from_grpc, error_from_http, unreachable
from detserve_client.transports import transport_to
from detserve_core.endpoint import Endpoint
from detserve_core.errors import AccessDenied, MissingExtra
from detserve_core.proxies import grpc_arguments
from detserve_perf.errors import MeasurementError
from detserve_perf.speed.step_times import ModelCounters

_TIMEOUT_S = 30.0


class TritonQueries:
    """Questions to one server, over the protocol of its endpoint. For one thread.

    It may be a gateway, which gives configurations, the version over gRPC alone, and no statistics.

    Every method raises an :class:`~detserve_core.errors.InferenceError` when the server does not answer it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._as_json: dict[str, Any] = {}
        made: dict[str, Any] = {}
        if endpoint.protocol == "grpc":
            from tritonclient.grpc import InferenceServerClient

            self._as_json = {"as_json": True}
            made = {"channel_args": grpc_arguments(endpoint.host)}
            if endpoint.tls:
                made["creds"] = endpoint.security.grpc_credentials()
        else:
            try:
                from tritonclient.http import InferenceServerClient
            except (ImportError, RuntimeError):  # what it raises where its own extra is not installed
                raise MissingExtra("tritonclient[http]", "perf") from None
        self._client = InferenceServerClient(endpoint.address, **made)
        self._transport = transport_to(endpoint)

    def __enter__(self) -> TritonQueries:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._client.close()
        self._transport.close()

    def version(self) -> str:
        """Triton's version, e.g. ``2.51.0``; a gateway does not say it over HTTP."""
        if self._endpoint.tls and self._endpoint.protocol == "http":
            return "of a version that its gateway does not say"
        return str(self._ask(self._client.get_server_metadata, "")["version"])

    def config(self, model: str) -> dict[str, Any]:
        """The model's configuration (config.pbtxt as JSON)."""
        return self._transport.model_config(model, _TIMEOUT_S)

    def configs(self, model: str) -> dict[str, dict[str, Any]]:
        """The configuration of a model and of those behind it, by name, in the order of a picture's way.

        Without those behind it that a gateway's key is not for.
        """
        found: dict[str, dict[str, Any]] = {}

        def look(name: str) -> None:
            if name in found:
                return
            try:
                found[name] = self.config(name)
            except AccessDenied:
                if not found:
                    raise
                return
            for step in steps_of(found[name]):
                look(step)

        look(model)
        return found

    def counters(self, model: str) -> ModelCounters:
        """The model's statistics since it was loaded, those of its newest version."""
        versions = self._ask(self._client.get_inference_statistics, model).get("model_stats", [])
        if not versions:
            raise MeasurementError(
                f"{self._endpoint} keeps no statistics of {model}; start it with statistics on"
            )
        return ModelCounters.from_statistics(max(versions, key=lambda entry: int(entry.get("version") or 0)))

    def _ask(self, question: Callable[..., Any], model: str) -> dict[str, Any]:
        from tritonclient.utils import InferenceServerException

        try:
            security = self._endpoint.security
            headers = dict(security.metadata(model)) if self._as_json else security.headers()
            return dict(question(*[model] * bool(model), headers=headers, **self._as_json))
        except InferenceServerException as error:
            text, status = error.message() or "", str(error.status())
            if self._endpoint.protocol == "grpc":
                code = status.removeprefix("StatusCode.")
                raise error_from_grpc(code, text, url=str(self._endpoint), model=model) from None
            code_number = int(status) if status.isdigit() else 500
            raise error_from_http(code_number, text, url=str(self._endpoint), model=model) from None
        except OSError as error:
            raise unreachable(str(error), url=str(self._endpoint)) from None


def steps_of(config: dict[str, Any]) -> list[str]:
    """The composing models of an ensemble, or those a pipeline calls, in order, each once; none of others."""
    steps = [step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", [])]
    parameters = config.get("parameters", {})
    called = [parameters[step]["string_value"] for step in ("preprocess", "detector") if step in parameters]
    return list(dict.fromkeys([*steps, *called]))
