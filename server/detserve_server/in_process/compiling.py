"""``native/`` -> libtriton_python.so for the running Python, compiled once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from detserve_server.errors import BackendNotCompiled

LIBRARY = "libtriton_python.so"
_NATIVE = Path(__file__).parent / "native"
_INTERPRETER = Path(__file__).parent / "interpreter"
_COMPILE_TIMEOUT_S = 300
_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"


def backend_files(cache: Path | None = None) -> list[Path]:
    """What the backend's folder must hold; the library is in ``cache`` or compiled into it, which takes 12 s.

    ``cache`` is ``$XDG_CACHE_HOME/detserve`` unless given.

    Raises :class:`BackendNotCompiled` where this machine lacks something, or the compiler fails.
    """
    command = _command()
    sources = sorted(path for path in _NATIVE.iterdir() if path.is_file())
    key = hashlib.sha256(repr((command, distribution("pybind11").version)).encode())
    for source in sources:
        key.update(source.read_bytes())
    folder = (cache or _default_cache()) / f"in-process-{key.hexdigest()[:16]}"
    if not (folder / LIBRARY).is_file():
        _compile(command, folder)
    return [folder / LIBRARY, *sorted(_INTERPRETER.glob("*.py"))]


def _command() -> list[str]:
    """The compiler's call without its output; raises :class:`BackendNotCompiled` naming what is missing."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        raise BackendNotCompiled("there is no C++ compiler; install g++")
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").is_file():
        raise BackendNotCompiled(f"{include} has no Python.h; install {_NAME}-dev")
    libraries = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere")
    if not (libraries / f"lib{_NAME}.so").exists() and not _multiarch_library():
        raise BackendNotCompiled(f"this Python has no shared library lib{_NAME}.so; install {_NAME}-dev")
    try:
        headers = Path(str(distribution("pybind11").locate_file("pybind11"))) / "include"
    except PackageNotFoundError:
        raise BackendNotCompiled("pybind11 is not installed; pip install 'detserve[server]'") from None
    return [
        compiler,
        *("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"),
        str(_NATIVE / "backend.cpp"),
        *(f"-I{include}", f"-I{headers}", f"-L{libraries}", f"-l{_NAME}"),
    ]


def _multiarch_library() -> bool:
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    return (Path("/usr/lib") / triplet / f"lib{_NAME}.so").exists()


def _compile(command: Sequence[str], folder: Path) -> None:
    """Into a folder of its own first, so that what is in the cache is whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=folder) as scratch:
            made = Path(scratch) / LIBRARY
            done = subprocess.run(
                [*command, "-o", str(made)],
                capture_output=True,
                text=True,
                timeout=_COMPILE_TIMEOUT_S,
                check=False,
            )
            if done.returncode != 0:
                raise BackendNotCompiled(f"{command[0]} failed: {_first_error(done.stderr)}")
            made.rename(folder / LIBRARY)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendNotCompiled(f"{folder} could not be filled ({error})") from None


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
    return lines[0] if lines else "without a word"


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detserve"
