"""``native/`` -> libtriton_python.so for the running Python, compiled once and kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from detserve_core.errors import OutputError
from detserve_core.machine.cache import cache_folder
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
    try:
        folder = (cache or cache_folder()) / f"in-process-{_key(command)}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(folder)
        if not (folder / LIBRARY).is_file():
            _compile(command, folder)
    except (OSError, OutputError) as error:
        raise BackendNotCompiled(f"there is no cache to compile it into ({error})") from None
    return [folder / LIBRARY, *sorted(_INTERPRETER.glob("*.py"))]


def _key(command: Sequence[str]) -> str:
    """Of everything that makes another library: a home may be shared by machines and images."""
    machine = (platform.machine(), platform.libc_ver(), sys.version, distribution("pybind11").version)
    key = hashlib.sha256(repr((command, machine)).encode())
    for source in sorted(path for path in _NATIVE.iterdir() if path.is_file()):
        key.update(source.read_bytes())
    return key.hexdigest()[:16]


def _check_owner(folder: Path) -> None:
    """What lies there is loaded into the server, so nobody else may have written it."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendNotCompiled(f"others can write {folder}, whose library would be loaded; remove it")


def _command() -> list[str]:
    """The compiler's call without its output; raises :class:`BackendNotCompiled` naming what is missing."""
    compiler, *options = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler) is None:
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
        *(compiler, *options),
        *("-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"),
        str(_NATIVE / "backend.cpp"),
        *(f"-I{include}", f"-I{headers}", f"-L{libraries}", f"-l{_NAME}"),
    ]


def _multiarch_library() -> bool:
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    return (Path("/usr/lib") / triplet / f"lib{_NAME}.so").exists()


def _compile(command: Sequence[str], folder: Path) -> None:
    """Into its own folder first, so that what is in the cache is whole."""
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=folder) as scratch:
        made = Path(scratch) / LIBRARY
        try:
            done = subprocess.run(
                [*command, "-o", str(made)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_COMPILE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BackendNotCompiled(f"{command[0]} took more than {_COMPILE_TIMEOUT_S} s") from None
        if done.returncode != 0:
            raise BackendNotCompiled(f"{command[0]} failed: {_first_error(done.stderr)}")
        made.rename(folder / LIBRARY)


def _first_error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()
    return lines[0] if lines else "without a word"
