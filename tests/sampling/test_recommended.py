"""Values that come with a model are taken where a request could have them."""

from __future__ import annotations

import math

import pytest

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.recommended import checked, honoured


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("temperature", 0.6, 0.6),
        ("temperature", 0, 0),
        ("top_k", 50, 50),
        ("top_k", 50.0, 50),
        ("top_k", -1, 0),
        ("top_k", -1.0, 0),
        ("top_p", 1, 1),
        ("min_p", 0.05, 0.05),
        ("repetition_penalty", 1.1, 1.1),
    ],
)
def test_what_a_request_could_have_is_taken(name, value, found):
    assert checked(name, value) == found
    assert name != "top_k" or isinstance(checked(name, value), int)
    SamplingParams(**honoured({name: value}, "model"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 5),
        ("temperature", -1),
        ("temperature", "0.7"),
        ("temperature", True),
        ("temperature", math.nan),
        ("temperature", 10**400),
        ("top_k", 2.5),
        ("top_k", -2),
        ("top_k", math.inf),
        ("top_k", 10**400),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_p", [0.9]),
        ("top_p", None),
        ("min_p", {}),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
    ],
)
def test_what_no_request_could_have_is_left_out_with_the_reason(name, value, caplog):
    with pytest.raises(InvalidRequestError, match=f"^{name} is ") as caught:
        checked(name, value)
    assert caught.value.param == name
    assert honoured({name: value, "seed": 3}, "my-model") == {"seed": 3}
    assert f"my-model recommends a value that is left out: {name} is " in caplog.text
