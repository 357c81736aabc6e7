"""The gateway's word on a request's models."""

from __future__ import annotations

import pytest

from detserve_builder.steps.detserve_scope import refusal


@pytest.mark.parametrize(
    "parameters",
    ["", "{}", '{"detserve-models":"*"}', '{"detserve-models":",x,shop,"}', '{"score_threshold":1}'],
)
def test_allowed(parameters) -> None:
    assert refusal(parameters, "shop_preprocess") is None


@pytest.mark.parametrize(
    "models",
    [
        '""',
        '","',
        '",shop2,"',
        '",my_shop,"',
        '"shop"',
        "5",
        "null",
        "true",
        '",SHOP,"',
        '",shop_preprocess,"',
    ],
)
def test_refused_whatever_the_client_said_before(models) -> None:
    parameters = f'{{"detserve-models":"*","detserve-models":{models}}}'
    assert refusal(parameters, "shop_preprocess") == "this key is not for model 'shop'"
