"""What a client may set when it starts a session."""

from __future__ import annotations

import pytest

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sessions.bots import Bots
from llmapi_kit.sessions.session_settings import read_settings

pytestmark = pytest.mark.kernel

BOTS = Bots({})


def test_sampling_parameters_reach_the_model_and_its_own_defaults_fill_the_rest():
    settings = read_settings(BOTS.get("chatgpt"), {"temperature": 0, "max_tokens": 7, "stop": "x", "system": "s"})
    sampling = settings.sampling({"temperature": 0.7, "top_p": 0.8})
    assert (sampling.temperature, sampling.max_tokens, sampling.stop, sampling.top_p) == (0, 7, ("x",), 0.8)
    assert settings.system_prompt == "s"


def test_nothing_set_is_the_models_own():
    assert read_settings(BOTS.get("chatgpt"), {}).sampling({"temperature": 0.3}).temperature == 0.3


@pytest.mark.parametrize(
    ("bot_type", "given", "why"),
    [
        ("chatgpt", {"temprature": 1}, r"settings\.temprature is not a setting of the bot 'chatgpt'.*temperature"),
        ("chatgpt", {"temperature": "1"}, r"settings\.temperature"),
        ("chatgpt", {"temperature": 3}, r"settings\.temperature is 3"),
        ("chatgpt", {"max_tokens": 0}, r"settings\.max_tokens"),
        ("chatgpt", {"stop": [1]}, r"settings\.stop"),
        ("chatgpt", {"stop": ["a"] * 17}, r"settings\.stop has 17"),
        ("chatgpt", {"model": 1}, r"settings\.model"),
        ("gpt-embedding", {"stop": "x"}, r"settings\.stop is not a setting of the bot 'gpt-embedding'"),
        ("dall-e", {"temperature": 1}, r"settings\.temperature is not .*size"),
        ("dall-e", {"size": 5}, r"settings\.size"),
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(bot_type, given, why):
    with pytest.raises(InvalidRequestError, match=why) as caught:
        read_settings(BOTS.get(bot_type), given)
    assert caught.value.param.startswith("settings.")
