"""A model whose layers are placed on devices answers as it does in one piece; what can't be computed is refused."""

from __future__ import annotations

import pytest
import torch
import transformers

import llmapi_kit as kit
from llmapi_kit.checkpoints.device_map import check_placed, free_beside
from llmapi_kit.errors import ModelTooLargeError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.slot_attention import KVMemory
from llmapi_kit.runners.step_layout import StepLayout


class Placed:
    """A model that was placed."""

    device = torch.device("cpu")

    def __init__(self, **places):
        self.hf_device_map = places


@pytest.mark.slow
def test_a_model_placed_by_a_map_answers_as_without(tmp_path):
    """On one device: that is what there is here."""
    torch.manual_seed(0)
    shape = {"vocab_size": 3072, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        **shape, num_attention_heads=4, max_position_embeddings=128, initializer_range=0.4
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    answers = []
    for options in ({"device_map": {"": "cpu"}}, {"device_map": "auto"}, {"native": False}):
        model = kit.load(tmp_path, tokenizer="pocket", dtype="float32", max_slots=2, **options)
        answers.append(model.ask("One", max_tokens=12, temperature=0))
        assert model.engine._loop._runner.kind == ("lean" if "native" in options else "modules")
        model.close()
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 4


def test_keys_values_and_places_of_a_step_are_where_the_layer_is():
    memory = KVMemory(2, 8, torch.device("cpu"), torch.float32)
    here, there = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, device="meta")
    assert memory.layer(0, here, here)[0].device.type == "cpu"
    assert memory.layer(1, there, there)[0].device.type == "meta"
    layout = StepLayout([StepItem(0, 0, [5, 6], True), StepItem(1, 3, [7], True)], torch.device("cpu"))
    layout.blocks = {1: torch.ones(2, 2, dtype=torch.bool)}
    other = layout.on(torch.device("meta"))
    assert layout.on(torch.device("cpu")) is layout
    assert layout.on(torch.device("meta")) is other
    assert {each.device.type for each in (other.positions, other.slots, other.wanted, other.blocks[1])} == {"meta"}
    assert [group.length for group in other.decode_groups] == [group.length for group in layout.decode_groups]


@pytest.mark.parametrize(
    ("places", "left"),
    [
        ({"model.layers.0": 0, "model.layers.1": "disk"}, "disk"),
        ({"model.layers.0": 0, "lm_head": "cpu"}, "cpu"),
        ({"model": "meta"}, "meta"),
    ],
)
def test_what_would_be_fetched_at_every_step_is_refused(places, left):
    with pytest.raises(ModelTooLargeError, match=f"left a part of it on {left}"):
        check_placed(Placed(**places), "m")


def test_memory_for_keys_and_values_is_bounded_by_the_fullest_device():
    free = {"cuda:0": 10, "cuda:1": 60, "cpu": 7}
    check_placed(Placed(embed=0, **{"layers.0": 0, "layers.1": 1}), "m")
    assert free_beside(Placed(embed=0, **{"layers.0": 0, "layers.1": 1, "layers.2": 1, "layers.3": 1}), free.get) == 40
    assert free_beside(Placed(**{"": "cpu"}), free.get) == 7
