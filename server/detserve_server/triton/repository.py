"""Reading a Triton model repository from outside: which models, how they are run, what they need."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detserve_core.errors import RepositoryError, ServerStartError
from detserve_core.repository.config_pbtxt import read_config

_ELEMENT_BYTES = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_INT8": 1,
    "TYPE_UINT16": 2, "TYPE_INT16": 2, "TYPE_FP16": 2, "TYPE_BF16": 2,
    "TYPE_UINT32": 4, "TYPE_INT32": 4, "TYPE_FP32": 4,
    "TYPE_UINT64": 8, "TYPE_INT64": 8, "TYPE_FP64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class ModelOutline:
    """What detserve needs to know of one ``config.pbtxt``.

    ``backend`` is "" when the model is an ensemble. ``steps`` are the models that it is made of, or that a
    pipeline calls.
    ``calls`` is the detector that a pipeline calls, with ``in_flight`` pictures at a time. ``queue_policy``
    are the bounds of Triton's own queue that are set.
    ``process`` is "server" for a python model whose build lets it run within the server's process;
    ``max_picture_pixels`` is its card's. ``caches``: Triton's response cache is on. ``fixed_tensor_bytes`` is
    the size of one batch item's inputs and outputs with fixed dimensions; ``open_tensors`` counts the others
    (strings, dimension -1). ``kind`` is that of its first instance group, KIND_CPU and the like.
    """

    name: str
    backend: str
    max_batch_size: int = 0
    instances: int = 1
    fixed_tensor_bytes: int = 0
    open_tensors: int = 0
    steps: tuple[str, ...] = field(default=())
    process: str = ""
    max_picture_pixels: int = 0
    caches: bool = False
    queue_policy: tuple[str, ...] = field(default=())
    calls: str = ""
    in_flight: str = ""
    kind: str = ""


def read_repository(folder: Path) -> list[ModelOutline]:
    """Outline every model of a repository, in order of name.

    Raises :class:`ServerStartError` when the folder does not exist or has no model, and
    :class:`RepositoryError` for a ``config.pbtxt`` that cannot be parsed.
    """
    if not folder.is_dir():
        raise ServerStartError(
            f"the model repository {folder} does not exist; give the folder that holds the models"
        )
    configs = sorted(folder.glob("*/config.pbtxt"))
    if not configs:
        raise ServerStartError(
            f"{folder} has no model; expected folders with a config.pbtxt, as made by: detserve build"
        )
    return [read_model(path) for path in configs]


def read_model(config_file: Path) -> ModelOutline:
    """Outline one model; raises :class:`RepositoryError` when its ``config.pbtxt`` cannot be parsed."""
    from tritonclient.grpc import model_config_pb2

    config = read_config(config_file)
    tensors = [*config.input, *config.output]
    try:
        types = [model_config_pb2.DataType.Name(one.data_type) for one in tensors]
    except ValueError as error:
        raise RepositoryError(
            f"{config_file} is not a model configuration ({error}); build the model again"
        ) from None
    sizes = [_tensor_bytes(data_type, list(one.dims)) for data_type, one in zip(types, tensors, strict=True)]
    return ModelOutline(
        name=config.name or config_file.parent.name,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        instances=_instances(config),
        process=config.parameters["process"].string_value,
        max_picture_pixels=_max_picture_pixels(config.parameters["detserve_card"].string_value),
        caches=config.response_cache.enable,
        queue_policy=_queue_policy(config.dynamic_batching),
        calls=config.parameters["detector"].string_value,
        in_flight=config.parameters["in_flight"].string_value,
        kind=_kind(config),
        fixed_tensor_bytes=sum(size for size in sizes if size is not None),
        open_tensors=sum(size is None for size in sizes),
        steps=(*(step.model_name for step in config.ensemble_scheduling.step), *_called(config)),
    )


def _queue_policy(batching: Any) -> tuple[str, ...]:
    """What is set of the policy of all requests, or of those of one priority."""
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    bounds = ("default_timeout_microseconds", "allow_timeout_override", "max_queue_size")
    return tuple(bound for bound in bounds if any(getattr(policy, bound) for policy in policies))


def _called(config: Any) -> list[str]:
    """The models that a pipeline of detserve calls, by its parameters."""
    names = [config.parameters[step].string_value for step in ("preprocess", "detector")]
    return [name for name in names if name]


def _tensor_bytes(data_type: str, dims: list[int]) -> int | None:
    if data_type not in _ELEMENT_BYTES or any(dim < 0 for dim in dims):
        return None
    return math.prod(dims) * _ELEMENT_BYTES[data_type]


def _max_picture_pixels(card: str) -> int:
    """Of a card in JSON; 0 where it says nothing of the kind."""
    try:
        return int(json.loads(card)["max_picture_pixels"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def _kind(config: Any) -> str:
    groups = list(config.instance_group)
    return str(type(groups[0]).Kind.Name(groups[0].kind)) if groups else ""


def _instances(config: Any) -> int:
    counts = [max(1, group.count) * max(1, len(group.gpus)) for group in config.instance_group]
    return sum(counts) or 1


#: What to do about :func:`caching_models`, and why.
NO_CACHE = (
    "take response_cache out of its config.pbtxt: the cache does not look at request parameters, so that "
    "a request with score_threshold 0.9 gets the answer for 0.1"
)


def check_no_cache(models: list[ModelOutline]) -> None:
    """Raise :class:`ServerStartError` naming the first detector, or step of one, that Triton would cache."""
    for name in caching_models(models)[:1]:
        raise ServerStartError(f"model {name!r} has response_cache on; {NO_CACHE}")


def check_names(models: list[ModelOutline], wanted: list[str], folder: Path) -> None:
    """Raise :class:`ServerStartError` naming the first wanted model that the repository does not have."""
    present = [model.name for model in models]
    for name in wanted:
        if name not in present:
            raise ServerStartError(f"{folder} has no model {name!r}; it has {', '.join(present)}")


def caching_models(models: list[ModelOutline]) -> list[str]:
    """The detectors and their steps that have Triton's response cache on.

    It knows a request by its tensors alone: who asks for score_threshold 0.9 is given the answer for 0.1.
    """
    detectors = [model.name for model in models if model.max_picture_pixels]
    return [model.name for model in with_steps(models, detectors) if model.caches]


def check_called(models: list[ModelOutline], folder: Path) -> None:
    """Raise :class:`ServerStartError` where a pipeline calls a model that is not there, or one that calls it.

    Triton looks for the models of an ensemble, and knows nothing of those that a python model calls.
    """
    by_name = {model.name: model for model in models}
    for model in models:
        if not model.calls:
            continue
        called = by_name.get(model.calls)
        if called is None or model.name in (called.name, *called.steps):
            why = "is not there" if called is None else "is made of it"
            raise ServerStartError(
                f"{folder}: {model.name} calls {model.calls}, which {why}; build the model again"
            )


def with_steps(models: list[ModelOutline], wanted: list[str]) -> list[ModelOutline]:
    """The wanted models and, for ensembles, the models they are made of."""
    by_name = {model.name: model for model in models}
    chosen: dict[str, ModelOutline] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop(0)
        if name in by_name and name not in chosen:
            chosen[name] = by_name[name]
            waiting.extend(by_name[name].steps)
    return list(chosen.values())
