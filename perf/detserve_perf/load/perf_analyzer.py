"""Find a perf_analyzer that runs on this machine, or fetch one.

Searched in this order, and each find is started once before it is trusted:

1. ``perf_analyzer`` on PATH, if it is the program itself. The ``perf-analyzer`` wheel puts a Python script of
   the same name there, which drops the program's exit status.
2. The program inside an installed ``perf-analyzer`` wheel. It wants glibc 2.38; where glibc is older, pip
   silently installs a placeholder without the program.
3. The cache, ``$XDG_CACHE_HOME/detserve/perf_analyzer-2.49.0``. When it is empty it is filled from the wheel
   ``tritonclient==2.49.0``, whose perf_analyzer needs glibc 2.34, with the two libraries it lacks:
   ``libcudart.so.12`` from PyPI and ``libb64.so.0d`` from Debian. Nothing is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detserve_core.machine.cache import cache_folder
from detserve_perf.errors import MeasurementError

_VERSION = "2.49.0"
_REQUIREMENTS = f"""\
tritonclient=={_VERSION} \\
    --hash=sha256:e7b40ba11056c93da434bc8a8b302c0a337489923a0a747c5d313314baa26db3
nvidia-cuda-runtime-cu12==12.9.79 \\
    --hash=sha256:25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3
"""
_PROGRAM_IN_WHEEL = f"tritonclient-{_VERSION}.data/data/bin/perf_analyzer"
_LIBRARY_IN_WHEEL = "nvidia/cuda_runtime/lib/libcudart.so.12"
_DEBIAN_PACKAGE = "libb64-0d"
_DEBIAN_LIBRARY = "libb64.so.0d"
_FETCH_TIMEOUT_S = 300


@dataclass(frozen=True)
class PerfAnalyzer:
    """A perf_analyzer that was seen to start. ``library_dir`` holds shared libraries it needs, if any."""

    program: Path
    library_dir: Path | None = None

    def environment(self) -> dict[str, str]:
        """The environment to start it with."""
        environment = dict(os.environ)
        if self.library_dir is not None:
            paths = [str(self.library_dir), environment.get("LD_LIBRARY_PATH", "")]
            environment["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
        return environment


def find_perf_analyzer(cache: Path | None = None) -> PerfAnalyzer:
    """The first perf_analyzer that starts, fetched into ``cache`` if there is none.

    Raises :class:`MeasurementError` when it can neither be found nor fetched.
    """
    for candidate in _installed():
        if why_not_starting(candidate) is None:
            return candidate
    folder = (cache or cache_folder()) / f"perf_analyzer-{_VERSION}"
    cached = _in_folder(folder)
    if not cached.program.is_file():
        _fill(folder)
    reason = why_not_starting(cached)
    if reason is not None:
        raise MeasurementError(
            f"the perf_analyzer in {folder} does not start ({reason}); delete that folder to fetch it anew"
        )
    return cached


def why_not_starting(candidate: PerfAnalyzer) -> str | None:
    """None when ``perf_analyzer --version`` succeeds, else the last line it printed."""
    try:
        done = subprocess.run(
            [str(candidate.program), "--version"],
            env=candidate.environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    line = _last_line(done.stderr + done.stdout).removeprefix(f"{candidate.program}: ")
    return line or f"exit status {done.returncode}"


def _installed() -> Iterator[PerfAnalyzer]:
    on_path = shutil.which("perf_analyzer")
    if on_path is not None and _is_program(Path(on_path)):
        yield PerfAnalyzer(Path(on_path))
    package = importlib.util.find_spec("perf_analyzer")
    for folder in (package.submodule_search_locations or []) if package else []:
        program = Path(folder) / "bin" / "perf_analyzer"
        if _is_program(program):
            yield PerfAnalyzer(program)


def _is_program(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"\x7fELF"
    except OSError:
        return False


def _in_folder(folder: Path) -> PerfAnalyzer:
    return PerfAnalyzer(folder / "bin" / "perf_analyzer", folder / "lib")


def _fill(folder: Path) -> None:
    """Assemble the program and its libraries beside ``folder``, start it, then move the whole into place."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MeasurementError(
            f"{folder.parent} cannot be made to keep perf_analyzer in ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can"
        ) from None
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        whole = Path(scratch) / "whole"
        _unpack_wheels(Path(scratch) / "wheels", whole)
        apt_complaint = _unpack_debian_library(Path(scratch) / "debian", whole / "lib")
        reason = why_not_starting(_in_folder(whole))
        if reason is not None:
            missing = f"; {apt_complaint}" if apt_complaint and _DEBIAN_LIBRARY in reason else ""
            raise MeasurementError(
                f"the perf_analyzer of tritonclient {_VERSION} does not start here ({reason}){missing}"
            )
        try:
            whole.rename(folder)
        except OSError:
            if why_not_starting(_in_folder(folder)) is not None:  # not another process that was faster
                raise


def _unpack_wheels(wheels: Path, whole: Path) -> None:
    wheels.mkdir()
    requirements = wheels / "requirements.txt"
    requirements.write_text(_REQUIREMENTS)
    arguments = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--dest",
        str(wheels),
    ]
    complaint = _run([sys.executable, "-m", "pip", *arguments, "--requirement", str(requirements)], wheels)
    if complaint is not None:
        raise MeasurementError(
            f"perf_analyzer is not installed and the wheel tritonclient=={_VERSION}, "
            f"which carries one for Linux on x86-64, could not be fetched ({complaint}); "
            "put a perf_analyzer on PATH"
        )
    wanted = {
        _PROGRAM_IN_WHEEL: whole / "bin" / "perf_analyzer",
        _LIBRARY_IN_WHEEL: whole / "lib" / "libcudart.so.12",
    }
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in wanted.keys() & set(archive.namelist()):
                wanted[name].parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, wanted[name].open("wb") as target:
                    shutil.copyfileobj(source, target)
                wanted[name].chmod(0o755)


def _unpack_debian_library(debian: Path, library_dir: Path) -> str | None:
    """Copy libb64 into ``library_dir`` without installing it; else one clause that says what to install."""
    debian.mkdir()
    fix = f"install it with: apt-get update && apt-get install {_DEBIAN_PACKAGE}"
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return f"this is not Debian or Ubuntu, so install the package that holds {_DEBIAN_LIBRARY}"
    if _run(["apt-get", "download", "--quiet", _DEBIAN_PACKAGE], debian) is not None:
        return fix
    for package in debian.glob("*.deb"):
        if _run(["dpkg", "-x", str(package), str(debian)], debian) is None:
            for library in debian.rglob(f"{_DEBIAN_LIBRARY}*"):
                shutil.copy(library, library_dir / _DEBIAN_LIBRARY)
                return None
    return fix


def _run(command: list[str], folder: Path) -> str | None:
    """None when the command succeeds, else its last line."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else _last_line(done.stderr) or f"exit status {done.returncode}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
