"""The embedded server with its client: ``detserve.serve``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from detserve.building import Detector, detectors_in, detectors_in_cache
from detserve_core.errors import ServerStartError

if TYPE_CHECKING:
    from detserve_client.client import Client

_HERE = Path("model_repository")


@contextmanager
def serve(detector: Detector | str | Path, *, log_file: str | Path | None = None) -> Iterator[Client]:
    """Serve a detector on free ports of 127.0.0.1 and yield a client of it; the server ends with the block.

    Args:
        detector: what :func:`detserve.build` returned, or the folder of a model repository, of which all
            detectors are served.
        log_file: where the server's log goes; None is a temporary file, which is kept only when it fails.

    Raises:
        ServerStartError: there is no such repository, or the server does not start.
        MissingExtra: the server is not installed.
    """
    from detserve_client.client import Client
    from detserve_server.triton.embedded import embedded_server

    repository, name = Path(detector) if isinstance(detector, (str, Path)) else detector.repository, None
    if isinstance(detector, Detector):
        name = detector.name
    elif repository.is_file():
        raise ServerStartError(
            f"{repository} is a file; expected the folder of a model repository, or a detector: "
            f"serve(build({str(repository)!r}))"
        )
    with (
        embedded_server(
            repository,
            models=None if name is None else [name],
            log_file=None if log_file is None else Path(log_file),
        ) as server,
        Client(server.grpc_url, name) as client,
    ):
        yield client


def detector_here(name: str | None) -> Detector:
    """The detector to serve where no server runs: of ./model_repository, else of the cache.

    Args:
        name: the one that is meant; None is the only one.

    Raises:
        ServerStartError: there is none, or several.
    """
    for found in (detectors_in(_HERE), detectors_in_cache()):
        meant = [detector for detector in found if name in (None, detector.name)]
        if len(meant) == 1:
            return meant[0]
        if len(names := sorted({each.name for each in meant})) > 1:
            where = _HERE if meant[0].repository == _HERE else meant[0].repository.parent
            raise ServerStartError(
                f"{where} has {len(meant)} detectors, {', '.join(names)}; say which with --model NAME"
            )
        if meant:
            folders = ", ".join(str(each.repository) for each in meant)
            raise ServerStartError(
                f"{len(meant)} detectors are called {names[0]}, in {folders}; serve the one you mean with: "
                "detserve serve --repository DIR"
            )
    what = "a detector" if name is None else f"the detector {name!r}"
    raise ServerStartError(
        f"there is no {_HERE} here with {what} to serve; build one with: detserve build FILE --name NAME "
        f"--repository {_HERE}, or say with --url where a server listens"
    )
