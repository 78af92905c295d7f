from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from llmapi_kit.errors import ConfigError
from llmapi_kit.notebook.chat.functions import MAX_RESULT, Function, read_functions

pytestmark = pytest.mark.kernel


def weather(city: str, unit: Literal["C", "F"] = "C", days: int = 1):
    """Get the weather
    in a city.

    More that no model needs.
    """
    return {"city": city, "unit": unit, "days": days}


async def later(title: str):
    return title


def call(function, arguments):
    return asyncio.run(Function(function).call(arguments))


def test_definition_comes_from_signature_and_docstring():
    definition = Function(weather).definition()["function"]
    assert (definition["name"], definition["description"]) == ("weather", "Get the weather in a city.")
    schema = definition["parameters"]
    assert schema["required"] == ["city"]
    assert schema["properties"]["city"] == {"type": "string"}
    assert schema["properties"]["unit"]["enum"] == ["C", "F"]
    assert schema["properties"]["days"] == {"type": "integer", "default": 1}
    assert "title" not in schema


def test_a_parameter_called_title_stays():
    assert Function(later).definition()["function"]["parameters"]["properties"] == {"title": {"type": "string"}}


def test_call_passes_arguments_and_gives_json_back():
    assert call(weather, '{"city": "Oslo", "days": 2}') == '{"city": "Oslo", "unit": "C", "days": 2}'
    assert call(later, '{"title": "x"}') == "x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("{}", "city: Field required"), ('{"city": "x", "unit": "K"}', "unit: Input should be 'C' or 'F'"), ("{", "EOF")],
)
def test_arguments_that_do_not_fit_tell_the_model_why(arguments, said):
    with pytest.raises(ValueError, match=said):
        call(weather, arguments)


def test_long_and_odd_results_become_text():
    assert len(call(lambda_named("x" * 30_000), "{}")) < MAX_RESULT + 20
    assert call(lambda_named({1, 2}), "{}") == "{1, 2}"


def lambda_named(result):
    def give():
        return result

    return give


def star(*args):
    return args


def strange(x: Ellipsis):
    return x


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ((lambda: 1,), "no name that a model could call"),
        ((star,), "by their names"),
        ((strange,), "plain types"),
        ((weather, weather), "Two functions are called 'weather'"),
    ],
)
def test_what_can_not_be_described_is_refused(functions, said):
    with pytest.raises(ConfigError, match=said):
        read_functions(functions)
