"""The tiny network, its pictures and statistics, made once."""

from __future__ import annotations

import pytest

from detserve_builder.precision.sensitivity import probe
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.quantise.fp16 import convertible_nodes
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes
from detserve_builder.quantise.statistics import measure
from tests.builder.precision.networks import prepared, write_pictures


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model, card = prepared(folder / "net.onnx")
    return model, calibration_folder(write_pictures(folder / "pictures", 6), card)


@pytest.fixture(scope="session")
def model(tiny):
    return tiny[0]


@pytest.fixture(scope="session")
def source(tiny):
    return tiny[1]


@pytest.fixture(scope="session")
def statistics(model, source):
    nodes = {*quantisable_nodes(model, Form.ONNXRUNTIME), *convertible_nodes(model)}
    return measure(model, measured_tensors(model, nodes), source)


@pytest.fixture(scope="session")
def float_probe(model, source):
    return probe(model, source)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
