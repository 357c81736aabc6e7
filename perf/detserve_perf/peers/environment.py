"""The peers' own virtual environment: made on demand, kept, never mixed with this one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from detserve_core.errors import MissingExtra
from detserve_core.machine.cache import cache_folder, made_in_cache
from detserve_perf.errors import MeasurementError

_INSTALL_TIMEOUT_S = 1200

#: What each peer needs, in the versions that were tried together.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "fastapi": ("fastapi==0.165.0", "uvicorn[standard]==0.54.0"),
    "litserve": ("litserve==0.2.19",),
    "bentoml": ("bentoml==1.4.40",),
    "pytriton": ("nvidia-pytriton==0.7.0",),
    "mosec": ("mosec==0.9.8",),
}
PEERS = tuple(REQUIREMENTS)


def peer_python(
    peers: Sequence[str], runtime: str, on_progress: Callable[[str], None], cache: Path | None = None
) -> Path:
    """The python of an environment that holds ``peers``; what is missing is installed first.

    ``runtime`` (onnxruntime or openvino), OpenCV and numpy are taken in this environment's versions, so that
    the same kernels run everywhere. Raises :class:`MeasurementError` when pip fails.
    """
    steps = _steps_requirements(runtime)
    key = hashlib.sha256(repr((sys.version_info[:2], sys.prefix)).encode()).hexdigest()[:10]
    folder = (cache or cache_folder()) / f"peers-{key}"
    wanted = {f"steps-{runtime}": (*steps, "pydantic>=2.7")} | {peer: REQUIREMENTS[peer] for peer in peers}
    with _alone(folder):
        if not (folder / "made").is_file():
            on_progress(f"making the peers' environment {folder}")
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            (folder / "made").touch()
        missing = {name: pins for name, pins in wanted.items() if _installed(folder, name) != _text(pins)}
        if missing:
            on_progress(f"installing {', '.join(missing)} into {folder}, once")
            _install(folder, steps, missing)
    return folder / "bin" / "python"


def _install(folder: Path, steps: Sequence[str], missing: dict[str, tuple[str, ...]]) -> None:
    constraints = folder / "constraints.txt"
    constraints.write_text(_text(steps))
    pins = [pin for group in missing.values() for pin in group]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--constraint", str(constraints), *pins])
    for name, group in missing.items():
        _mark(folder, name).write_text(_text(group))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the environment's lock: one process makes it, the next finds it made."""
    import fcntl  # POSIX only, like the peers

    made_in_cache(folder.parent)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_peers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once; raises :class:`MeasurementError` for an unknown one."""
    for name in names:
        if name not in REQUIREMENTS:
            raise MeasurementError(f"--peers has {name!r}; expected some of {', '.join(PEERS)}")
    return tuple(dict.fromkeys(names))


def _steps_requirements(runtime: str) -> tuple[str, ...]:
    """What the step files import, in the versions of this environment."""
    try:
        return (
            f"numpy=={version('numpy')}",
            f"{runtime}=={version(runtime)}",
            f"opencv-python-headless=={version('opencv-python')}",
        )
    except PackageNotFoundError as error:
        raise MissingExtra(str(error.name), "perf") from None


def _mark(folder: Path, name: str) -> Path:
    return folder / f"installed-{name}.txt"


def _installed(folder: Path, name: str) -> str | None:
    try:
        return _mark(folder, name).read_text()
    except OSError:
        return None


def _text(pins: Sequence[str]) -> str:
    return "\n".join(pins) + "\n"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        complaint = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        complaint, failed = [str(error)], True
    if failed:
        reason = complaint[0] if complaint else "no reason given"
        raise MeasurementError(f"the peers' environment could not be made ({reason}); see --peers")
