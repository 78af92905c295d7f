"""What a model's makers recommend is advice: what no request could have is left out, with a reason."""

from __future__ import annotations

import json

import pytest

from llmapi_kit.checkpoints.generation_config import read_recommended
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.errors import ModelLoadError
from tests.checkpoints.odd_folders import make_small

VOCAB, OWN = 100, 7


class TextConfig:
    vocab_size = VOCAB
    eos_token_id = OWN

    def get_text_config(self):
        return self


@pytest.fixture
def read(tmp_path):
    """Reads what a generation_config.json says."""

    def read_values(values):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "generation_config.json").write_text(json.dumps(values))
        return read_recommended(str(tmp_path), TextConfig())

    return read_values


def test_sampling_is_as_the_file_has_it(read):
    values = {"do_sample": True, "temperature": 0.6, "top_k": 50.0, "top_p": None, "max_length": 20}
    assert read(values).sampling == {"temperature": 0.6, "top_k": 50.0}
    assert read({**values, "do_sample": False}).sampling == {"temperature": 0.0}


@pytest.mark.parametrize(
    ("named", "found"),
    [(3, (3,)), ([3, 5], (3, 5)), (0, (0,)), ([3, "5", None, 100, -1, True, 2.5, 4], (3, 4))],
    ids=["one", "several", "the first", "some that are none"],
)
def test_tokens_that_end_an_answer_are_those_of_the_vocabulary(read, named, found):
    assert read({"eos_token_id": named}).eos_ids == found


@pytest.mark.parametrize("named", ["2", None, [], {}, 100, -1, 2.5, True, ["2"]])
def test_the_models_own_end_token_holds_where_the_file_names_none(read, named, caplog):
    assert read({"eos_token_id": named}).eos_ids == (OWN,)
    assert ("is left out: it must be a whole number from 0 to 99" in caplog.text) == (named not in (None, []))


def test_no_file_is_no_advice(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    found = read_recommended(str(tmp_path), TextConfig())
    assert (found.sampling, found.eos_ids) == ({}, (OWN,))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"generation_config\.json can't be read"):
        read_recommended(str(tmp_path), TextConfig())


def test_what_transformers_can_not_use_does_not_stop_a_load(tmp_path):
    folder = make_small(tmp_path / "model")
    odd = {"temperature": "hot", "eos_token_id": "2", "num_beams": "x", "cache_implementation": "nope"}
    (folder / "generation_config.json").write_text(json.dumps(odd))
    assert load_model(parse_spec(folder), device="cpu").eos_ids == (2,)
