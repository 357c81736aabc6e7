"""Where the tritonserver binary, its libraries and its Python stub are in this environment."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from detserve_core.errors import MissingExtra, ServerStartError
from detserve_server.triton.private_links import temporary_folder

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class TritonDistribution:
    """The files of the ``nvidia-pytriton`` wheel and of this Python that the embedded server needs."""

    version: str
    binary: Path
    libs_dir: Path
    python_backend_dir: Path
    stub: Path
    interpreter_dir: Path
    libpython_dir: Path | None

    @property
    def library_path(self) -> list[Path]:
        """What the dynamic linker must search, in order."""
        return [self.libs_dir, *([self.libpython_dir] if self.libpython_dir else [])]


def find_distribution() -> TritonDistribution:
    """Find the wheel's files without importing it.

    Raises :class:`MissingExtra` when the wheel is not installed, :class:`ServerStartError` when it does not
    fit the running Python.
    """
    try:
        wheel = distribution("nvidia-pytriton")
    except PackageNotFoundError:
        raise MissingExtra("nvidia-pytriton", "server") from None
    site_dir = Path(str(wheel.locate_file("")))
    triton_dir = site_dir / "pytriton" / "tritonserver"
    found = TritonDistribution(
        version=wheel.version,
        binary=triton_dir / "bin" / "tritonserver",
        libs_dir=site_dir / "nvidia_pytriton.libs",
        python_backend_dir=triton_dir / "backends" / "python",
        stub=triton_dir / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub",
        interpreter_dir=Path(sys.executable).parent,
        libpython_dir=libpython_dir(),
    )
    if not found.binary.is_file():
        raise ServerStartError(
            f"nvidia-pytriton {wheel.version} has no file {found.binary}; reinstall it from its Linux wheel"
        )
    if not found.stub.is_file():
        versions = ", ".join(sorted(path.name for path in found.stub.parent.parent.glob("3.*")))
        raise ServerStartError(
            f"nvidia-pytriton {wheel.version} has no Python backend for Python {PYTHON_VERSION} "
            f"(it has {versions}); run detserve with one of these"
        )
    if not (found.interpreter_dir / "python3").exists():
        raise ServerStartError(
            f"{found.interpreter_dir} has no python3, by which the server finds this Python's packages; "
            f"run detserve from a virtual environment"
        )
    return found


def libpython_dir() -> Path | None:
    """The folder of the running Python's shared library, or ``None`` where the system linker must find it."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere")
    return folder if list(folder.glob(f"libpython{PYTHON_VERSION}.so*")) else None


@contextmanager
def assembled_backends(found: TritonDistribution, in_process: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary backend directory whose python backend is the wheel's, with the stub of the running Python.

    Or consists of the files ``in_process``, for pipelines in the server's own process.
    """
    with temporary_folder("detserve-backends-") as folder:
        python = folder / "python"
        python.mkdir()
        for source in in_process or (*found.python_backend_dir.iterdir(), found.stub):
            if source.is_file():
                (python / source.name).symlink_to(source)
        yield folder
