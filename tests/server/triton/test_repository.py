from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detserve_core.contract import CARD_PARAMETER
from detserve_core.errors import RepositoryError, ServerStartError
from detserve_server.triton.repository import (
    ModelOutline,
    caching_models,
    check_called,
    check_names,
    check_no_cache,
    read_model,
    read_repository,
    with_steps,
)
from tests.server.triton.models import write_repository


def test_outlines_of_an_ensemble_and_its_steps(tmp_path: Path) -> None:
    ensemble, second, first = read_repository(write_repository(tmp_path))
    assert ensemble.steps == ("tiny_preprocess", "tiny_postprocess")
    assert ensemble.backend == ""
    assert first == ModelOutline(
        "tiny_preprocess", "python", 8, fixed_tensor_bytes=4, open_tensors=1, kind="KIND_CPU"
    )
    assert second == ModelOutline("tiny_postprocess", "python", 8, fixed_tensor_bytes=8, kind="KIND_CPU")


def test_instances_and_tensor_sizes(tmp_path: Path) -> None:
    config = tmp_path / "config.pbtxt"
    config.write_text(
        'name: "m" backend: "python" max_batch_size: 4 '
        'input { name: "images" data_type: TYPE_UINT8 dims: [416, 416, 3] } '
        'output { name: "boxes" data_type: TYPE_FP32 dims: [300, 4] } '
        'output { name: "rows" data_type: TYPE_FP32 dims: [-1, 4] } '
        "instance_group { kind: KIND_CPU count: 2 } instance_group { kind: KIND_CPU }"
    )
    model = read_model(config)
    assert model.instances == 3
    assert model.fixed_tensor_bytes == 416 * 416 * 3 + 300 * 4 * 4
    assert model.open_tensors == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="nowhere does not exist; give the folder"):
        read_repository(tmp_path / "nowhere")


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"has no model; expected folders with a config\.pbtxt"):
        read_repository(tmp_path)


def test_a_wrong_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.pbtxt").write_text("nonsense: 3")
    with pytest.raises(
        RepositoryError, match=r'm/config\.pbtxt is not a model configuration .*named "nonsense"'
    ):
        read_repository(tmp_path)


def test_an_unknown_model_lists_those_there() -> None:
    with pytest.raises(ServerStartError, match="has no model 'c'; it has a, b"):
        check_names([ModelOutline("a", ""), ModelOutline("b", "")], ["a", "c"], Path("models"))


def test_an_ensemble_brings_its_steps() -> None:
    models = [
        ModelOutline("e", "", steps=("a", "b")),
        ModelOutline("a", "python"),
        ModelOutline("b", "python"),
    ]
    assert [model.name for model in with_steps([*models, ModelOutline("other", "python")], ["e"])] == list(
        "eab"
    )


def _cached(tmp_path: Path, model: str, card: str = '{"max_picture_pixels": 9}') -> list[ModelOutline]:
    """The ensemble ``tiny`` and its steps, one of which has the cache on."""
    write_repository(tmp_path)
    escaped = card.replace('"', '\\"')
    with (tmp_path / "tiny/config.pbtxt").open("a") as config:
        config.write(f'parameters {{ key: "{CARD_PARAMETER}" value {{ string_value: "{escaped}" }} }}\n')
    with (tmp_path / model / "config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }\n")
    return read_repository(tmp_path)


@pytest.mark.parametrize("model", ["tiny", "tiny_preprocess"])
def test_a_detector_and_its_steps_are_not_cached(tmp_path: Path, model: str) -> None:
    models = _cached(tmp_path, model)
    assert caching_models(models) == [model]
    with pytest.raises(
        ServerStartError, match=f"model '{model}' has response_cache on; take .* score_threshold"
    ):
        check_no_cache(models)


def test_another_model_may_be_cached(tmp_path: Path) -> None:
    models = _cached(tmp_path, "tiny", card="")
    assert models[0].caches
    check_no_cache(models)


@pytest.mark.parametrize(
    ("detector", "why"),
    [("b", "which is not there"), ("a_pipeline", "which is made of it"), ("a", "which is made of it")],
)
def test_a_pipeline_that_calls_what_cannot_answer_is_not_served(
    tmp_path: Path, detector: str, why: str
) -> None:
    pipeline = ModelOutline("a_pipeline", "python", steps=(detector,), calls=detector)
    ensemble = ModelOutline("a", "", steps=("a_pipeline",))
    with pytest.raises(ServerStartError, match=f"a_pipeline calls {detector}, {why}; build the model again"):
        check_called([pipeline, ensemble], tmp_path)
    check_called([replace(pipeline, calls="c"), ensemble, ModelOutline("c", "onnxruntime")], tmp_path)
