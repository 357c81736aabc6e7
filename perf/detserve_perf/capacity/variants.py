"""Copies of one detector that differ in how many instances its steps have."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from detserve_perf.errors import MeasurementError

PIPELINE, STEPS = "pipeline", "steps"


def placement_of(repository: Path, model: str) -> str:
    """``pipeline`` when one model does all, ``steps`` when there is one for each step."""
    return PIPELINE if (repository / f"{model}_pipeline").is_dir() else STEPS


def instances_of(repository: Path, model: str) -> int:
    """How many instances the busiest step has as it was built."""
    return max(_count(_config(repository / step)) for step in _steps(repository, model))


def copy_with_instances(repository: Path, model: str, instances: int, into: Path) -> Path:
    """Copy ``model`` and its steps; every step but the postprocess, which is cheap, gets ``instances``.

    Raises :class:`MeasurementError` when the repository holds no such detector.
    """
    from google.protobuf import text_format

    steps = _steps(repository, model)
    for name in (model, *steps):
        shutil.copytree(repository / name, into / name)
    for name in steps:
        if name.endswith("_postprocess"):
            continue
        config = _config(into / name)
        if not config.instance_group:
            config.instance_group.add(kind="KIND_CPU")
        del config.instance_group[1:]
        config.instance_group[0].count = instances
        (into / name / "config.pbtxt").write_text(text_format.MessageToString(config))
    return into


def _steps(repository: Path, model: str) -> list[str]:
    scheduling = _config(repository / model).ensemble_scheduling
    return list(dict.fromkeys(step.model_name for step in scheduling.step)) or [model]


def _count(config: Any) -> int:
    return sum(max(group.count, 1) for group in config.instance_group) or 1


def _config(folder: Path) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    file = folder / "config.pbtxt"
    try:
        return text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    except OSError:
        raise MeasurementError(
            f"{file} cannot be read; --repository takes a folder with the detector and its steps"
        ) from None
    except text_format.ParseError as error:
        raise MeasurementError(f"{file} is no model configuration: {error}") from None
