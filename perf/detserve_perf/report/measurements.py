"""Folders of earlier measurements, read back: what ``detserve perf`` wrote as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detserve_perf.errors import MeasurementError

#: The measurements that a report knows, in the order it shows them.
KINDS = ("sweep", "compare", "overload", "accuracy", "plan", "soak")


@dataclass(frozen=True)
class Measurements:
    """One folder. ``measured`` has the JSON of each kind that is in it."""

    folder: Path
    measured: Mapping[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """The model they were made with, or the folder's name."""
        models = (data.get("model") for data in self.measured.values())
        return next((str(model) for model in models if model), self.folder.name)

    @property
    def machine(self) -> dict[str, Any]:
        """What the first of them was measured on; empty when none says."""
        return next((data["machine"] for data in self.measured.values() if data.get("machine")), {})


@dataclass(frozen=True)
class Metric:
    """One figure of a folder: all its repeats. ``least_change`` is what counts, None: see noise."""

    name: str
    unit: str
    higher_is_better: bool
    values: tuple[float, ...]
    least_change: float | None = None


def read_measurements(folder: Path) -> Measurements:
    """Read what is in ``folder``; raises :class:`MeasurementError` when that is nothing, or damaged."""
    measured: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        file = folder / f"{kind}.json"
        if not file.is_file():
            continue
        try:
            data = json.loads(file.read_bytes())
        except (OSError, ValueError):
            raise MeasurementError(f"{file} is not JSON; measure again with detserve perf {kind}") from None
        if not isinstance(data, dict):
            raise MeasurementError(f"{file} has no measurement; make one with detserve perf {kind}")
        measured[kind] = data
    if not measured:
        wanted = ", ".join(f"{kind}.json" for kind in KINDS)
        raise MeasurementError(f"{folder} has no measurement; expected some of {wanted}")
    return Measurements(folder, measured)


def metrics(one: Measurements) -> list[Metric]:
    """Every figure that can be compared with that of another folder.

    Raises :class:`MeasurementError` when a file is not as this version writes it.
    """
    readers = {"sweep": _of_sweep, "compare": _of_compare, "accuracy": _of_accuracy}
    found: list[Metric] = []
    for kind, reader in readers.items():
        if kind in one.measured:
            try:
                found += reader(one.measured[kind])
            except (KeyError, TypeError, IndexError):
                file = one.folder / f"{kind}.json"
                raise MeasurementError(f"{file} was written by another version; measure again") from None
    return found


def _of_sweep(data: dict[str, Any]) -> Iterator[Metric]:
    points: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for run in data["runs"]:
        points.setdefault((run["point"]["batch"], run["point"]["concurrency"]), []).append(run)
    for (batch, concurrency), runs in points.items():
        where = f"{data['model']}, batch {batch}, concurrency {concurrency}"
        yield from _speed(
            where, [run["load"]["pictures_per_s"] for run in runs], [run["ratio"] for run in runs]
        )
        yield Metric(f"{where}: p99", "ms", False, tuple(run["load"]["p99_ms"] for run in runs))


def _of_compare(data: dict[str, Any]) -> Iterator[Metric]:
    servers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in data["runs"]:
        servers.setdefault((run["name"], run["protocol"]), []).append(run)
    for (name, protocol), runs in servers.items():
        where = f"{data['model']} behind {name}, {protocol}"
        yield from _speed(where, [run["pictures_per_s"] for run in runs], [run["ratio"] for run in runs])
        yield Metric(f"{where}: p99", "ms", False, tuple(run["p99_ms"] for run in runs))


def _of_accuracy(data: dict[str, Any]) -> Iterator[Metric]:
    yield Metric(f"{data['model']}: AP", "", True, (data["table"]["ap"],), least_change=0.002)


def _speed(where: str, per_s: Sequence[float], ratios: Sequence[float | None]) -> Iterator[Metric]:
    """The ratio where there is one: the machine's own speed is in it."""
    known = [ratio for ratio in ratios if ratio is not None]
    if known:
        yield Metric(f"{where}: served / in-process", "", True, tuple(known))
    else:
        yield Metric(f"{where}: throughput", "pictures/s", True, tuple(per_s))
