"""The query and the header Accept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from detserve_rest.formats import FORMATS
from detserve_rest.parameters import Wanted, wanted_by
from detserve_rest.problems import Problem


def request(query: str = "", *accept: str) -> Request:
    headers = [(b"accept", value.encode("latin-1")) for value in accept]
    scope = {"type": "http", "query_string": query.encode("latin-1", "replace"), "headers": headers}
    return Request(scope)


def test_all_of_them() -> None:
    assert wanted_by(request()) == Wanted()
    assert wanted_by(request("score=.5&iou=1e-1&max=7&format=yolo")) == Wanted(0.5, 0.1, 7, "yolo")


@given(st.text())
def test_a_text_is_a_number_from_0_to_1_or_refused(text: str) -> None:
    try:
        value = wanted_by(Request({**request().scope, "query_string": f"score={text}".encode()})).score
    except Problem:
        return
    assert value is not None
    assert math.isfinite(value)
    assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        (["text/plain"], "yolo"),
        (["image/*"], "jpg"),
        (["text/html;q=0.9, image/jpeg;q=0.2, */*;q=0.1"], "jpg"),
        (["image/jpeg;q=0.2", "application/json;q=0.3"], "json"),
        (["image/jpeg;q=nan, application/json"], "json"),
        (["APPLICATION/GEO+JSON"], "geojson"),
    ],
)
def test_accept(accept: list[str], name: str) -> None:
    assert wanted_by(request("", *accept)).format == name
    assert name in FORMATS


@pytest.mark.parametrize("accept", ["text/html", "", "application/json;q=0", ",,;;"])
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(Problem) as caught:
        wanted_by(request("", accept))
    assert caught.value.kind == "not-acceptable"
    assert wanted_by(request("format=json", accept)).format == "json"
