"""The contract that every engine has to keep, and what is special about this one."""

from __future__ import annotations

import pytest
from llmapi_kit.errors import ConfigError, ModelNotFoundError
from llmapi_kit.testing import EngineContract, answers_of

from rhyming_backend import make_engine


class TestRhymingEngine(EngineContract):
    # each is refused by name, which the suite checks too
    cannot = frozenset(("n", "stop", "token_ids", "tokenize"))

    def make_engine(self):
        return make_engine("poet")

    def long_request(self, engine):
        return self.request(engine, "cat " * 200)


def test_it_rhymes():
    contract = TestRhymingEngine()
    engine = contract.make_engine()
    assert answers_of(contract.ask(engine, contract.request(engine, "cat day")))[0] == "bat bay"


def test_a_poet_who_is_not_there_is_named():
    with pytest.raises(ModelNotFoundError, match="poet, bard"):
        make_engine("nobody")
    with pytest.raises(ConfigError, match="mood"):
        make_engine("poet", mood="hungry")
    with pytest.raises(ConfigError, match="'speed'"):
        make_engine("poet", speed=3)
