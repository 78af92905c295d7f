"""The table of known models agrees with itself: each parameter is accounted for by the shape."""

from __future__ import annotations

import datetime

import pytest

from llmapi_kit.checkpoints.known_models import known_models, read_table
from llmapi_kit.checkpoints.spec import parse_spec

MODELS = known_models()
# Parameters of norms in a layer, by family: two norms, and where a family has them more, or norms of heads
NORMS = {"Qwen/Qwen3": (2, 2), "google/gemma-3": (4, 2)}
BIASED = "Qwen/Qwen2.5"  # queries, keys and values have biases


def computed_parameters(model):
    shape = model.shape
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    matrices = 2 * shape.hidden_size * (queries + keys) + 3 * shape.hidden_size * shape.intermediate_size
    norms, head_norms = next((value for start, value in NORMS.items() if model.name.startswith(start)), (2, 0))
    biases = queries + 2 * keys if model.name.startswith(BIASED) else 0
    layer = matrices + norms * shape.hidden_size + head_norms * shape.head_dim + biases
    embeddings = (1 if model.shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    return embeddings + shape.num_hidden_layers * layer + shape.hidden_size


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_parameters_are_those_of_the_shape(model):
    assert model.num_parameters == computed_parameters(model)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_download_is_all_weights_or_those_and_the_embedding_again(model):
    again = model.shape.vocab_size * model.shape.hidden_size if model.shape.tie_word_embeddings else 0
    assert model.download_bytes in (2 * model.num_parameters, 2 * (model.num_parameters + again))


def test_rows_go_from_small_to_large_and_each_name_is_one_of_the_hub():
    assert [each.num_parameters for each in MODELS] == sorted(each.num_parameters for each in MODELS)
    assert {parse_spec(each.name).kind for each in MODELS} == {"hub"}
    assert len({each.name for each in MODELS}) == len(MODELS)


def test_every_row_says_when_and_where_its_numbers_were_published():
    datetime.date.fromisoformat(read_table().reviewed)
    for model in MODELS:
        datetime.date.fromisoformat(f"{model.published}-01")
        assert model.name in model.source


def test_what_needs_a_token_is_not_recommended():
    assert not [each.name for each in MODELS if each.is_gated and each.rank]
    ranks = [each.rank for each in MODELS if each.rank]
    assert ranks == sorted(set(ranks)), "the rank follows the size, and no two share one"
