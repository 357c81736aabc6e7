"""Histograms over the calibration pictures, and their cache."""

from __future__ import annotations

import numpy as np
import pytest

from detserve_builder.graph.session import open_session
from detserve_builder.quantise.calibration import CalibrationError
from detserve_builder.quantise.statistics import measure, statistics_folder


def equal(a, b) -> bool:
    return a.names == b.names and all(
        np.array_equal(getattr(a, field), getattr(b, field)) for field in ("low", "high", "counts")
    )


def test_every_value_is_counted_between_the_ends(model, source, statistics) -> None:
    session = open_session(model, outputs=("wide",))
    values = np.concatenate(
        [session.run(("wide",), {"images": image})[0].ravel() for image in source.images()]
    )
    index = statistics.names.index("wide")
    assert (statistics.low[index], statistics.high[index]) == (values.min(), values.max())
    assert statistics.counts[index].sum() == values.size
    expected, _ = np.histogram(values, len(statistics.counts[index]), (values.min(), values.max()))
    assert np.abs(np.cumsum(statistics.counts[index]) - np.cumsum(expected)).max() <= values.size * 1e-4


def test_progress_runs_to_the_end(model, source) -> None:
    seen = []
    measure(model, ("wide",), source, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


def test_the_cache_is_used_and_gives_the_same(model, source) -> None:
    def run():
        seen = []
        return measure(model, ("wide",), source, lambda *_: seen.append(1), cache=statistics_folder()), seen

    (first, worked), (second, idle) = run(), run()
    assert worked
    assert not idle
    assert equal(first, second)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_cache_is_measured_anew(model, source, damage) -> None:
    first = measure(model, ("wide",), source, cache=statistics_folder())
    (entry,) = statistics_folder().iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert equal(first, measure(model, ("wide",), source, cache=statistics_folder()))
    assert entry.read_bytes() == whole


def test_an_interrupted_measurement_leaves_nothing(model, source) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, ("wide",), source, interrupt, cache=statistics_folder())
    assert not statistics_folder().exists() or not list(statistics_folder().iterdir())


def test_other_tensors_pictures_or_preprocess_are_other_entries(model, source) -> None:
    from dataclasses import replace

    other_spec = source.card.preprocess.model_copy(update={"pad_value": 0})
    other_card = source.card.model_copy(update={"preprocess": other_spec})
    measure(model, ("wide",), source, cache=statistics_folder())
    measure(model, ("stem",), source, cache=statistics_folder())
    measure(model, ("wide",), replace(source, sha256="0" * 64), cache=statistics_folder())
    measure(model, ("wide",), replace(source, card=other_card), cache=statistics_folder())
    assert len(list(statistics_folder().iterdir())) == 4


def test_a_network_that_overflows_is_named(model, source) -> None:
    import onnx
    from onnx import numpy_helper

    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    weight = next(i for i in broken.graph.initializer if i.name == "wide_bias")
    weight.CopyFrom(numpy_helper.from_array(np.full(32, np.inf, np.float32), "wide_bias"))
    with pytest.raises(CalibrationError, match="tensor wide of the network is not finite"):
        measure(broken, ("stem", "wide"), source)
