from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detserve_server.triton.repository import ModelOutline
from detserve_server.triton.shared_memory import MIB, OPEN_TENSOR_BYTES, shm_size_bytes, start_bytes

outlines = st.builds(
    ModelOutline,
    name=st.just("m"),
    backend=st.sampled_from(["python", "onnxruntime", ""]),
    max_batch_size=st.integers(0, 64),
    instances=st.integers(1, 16),
    fixed_tensor_bytes=st.integers(0, 10 * MIB),
    open_tensors=st.integers(0, 3),
)


def test_each_python_instance_needs_one_mebibyte_to_start() -> None:
    models = [ModelOutline("a", "python", instances=3), ModelOutline("b", "onnxruntime", instances=5)]
    assert start_bytes(models) == 3 * MIB


def test_the_formula() -> None:
    model = ModelOutline("a", "python", 8, instances=2, fixed_tensor_bytes=MIB, open_tensors=1)
    exact = 2 * (MIB + 2 * 8 * (MIB + OPEN_TENSOR_BYTES))
    assert exact == 162 * MIB
    assert shm_size_bytes([model]) == 192 * MIB


@given(st.lists(outlines, max_size=6), outlines)
def test_more_models_never_need_less_and_sizes_are_whole_steps(
    models: list[ModelOutline], another: ModelOutline
) -> None:
    size = shm_size_bytes(models)
    assert size % (64 * MIB) == 0
    assert size >= max(64 * MIB, start_bytes(models))
    assert shm_size_bytes([*models, another]) >= size
