"""The benchmark models, and their GGUF files."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
import transformers

from benchmarks.gguf_file import interleave_halves, write_gguf
from benchmarks.models import make_model


@pytest.fixture(scope="module")
def model(tiny):
    return transformers.AutoModelForCausalLM.from_pretrained(tiny.folder)


@pytest.fixture(scope="module")
def reader(tiny):
    return gguf.GGUFReader(tiny.gguf)


def value(reader, key):
    return reader.get_field(key).contents()


def test_tiny_has_four_million_parameters(tiny):
    assert round(tiny.num_parameters / 1e6, 1) == 4.0


def test_a_model_is_made_once(tiny, work):
    before = (tiny.folder / "model.safetensors").stat().st_mtime_ns
    assert make_model("tiny", work) == tiny
    assert (tiny.folder / "model.safetensors").stat().st_mtime_ns == before


def test_shape_and_tokenizer_stand_in_the_gguf(tiny, model, reader):
    assert value(reader, "general.architecture") == "llama"
    assert value(reader, "llama.block_count") == model.config.num_hidden_layers
    assert value(reader, "llama.attention.head_count_kv") == model.config.num_key_value_heads
    assert value(reader, "llama.context_length") == model.config.max_position_embeddings
    tokenizer = json.loads((tiny.folder / "tokenizer.json").read_text())
    pieces = value(reader, "tokenizer.ggml.tokens")
    assert len(pieces) == model.config.vocab_size
    assert all(pieces[id_] == piece for piece, id_ in tokenizer["model"]["vocab"].items())
    assert len(value(reader, "tokenizer.ggml.merges")) == len(tokenizer["model"]["merges"])
    assert value(reader, "tokenizer.chat_template") == (tiny.folder / "chat_template.jinja").read_text()


def test_the_gguf_has_the_same_weights(model, reader):
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    state = model.state_dict()
    down = state["model.layers.2.mlp.down_proj.weight"].numpy()
    np.testing.assert_array_equal(tensors["blk.2.ffn_down.weight"].data, down)
    query = state["model.layers.1.self_attn.q_proj.weight"].numpy()
    turned = tensors["blk.1.attn_q.weight"].data
    half = query.shape[0] // model.config.num_attention_heads // 2
    np.testing.assert_array_equal(turned[0:4], query[[0, half, 1, half + 1]])
    assert len(tensors) == len(state) - 1  # the tied output is not written twice


def test_interleaving_keeps_heads_apart():
    rows = np.arange(8)[:, None]
    assert interleave_halves(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_qwen_keeps_the_order_and_its_biases(tmp_path, tiny):
    config = transformers.AutoConfig.for_model(
        "qwen2", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, vocab_size=3072, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    tokenizer = json.loads((tiny.folder / "tokenizer.json").read_text())
    write_gguf(model, tokenizer, "", tmp_path / "q.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    query = model.model.layers[0].self_attn.q_proj
    assert tensors["blk.0.attn_q.weight"].data.dtype == np.float16
    np.testing.assert_allclose(tensors["blk.0.attn_q.weight"].data, query.weight.detach().float(), atol=1e-4)
    assert tensors["blk.0.attn_q.bias"].data.dtype == np.float32


def test_other_architectures_are_refused(tmp_path):
    class Other:
        config = transformers.AutoConfig.for_model("gpt2")

    with pytest.raises(ValueError, match="gpt2"):
        write_gguf(Other(), {}, "", tmp_path / "x.gguf")


def test_answers_become_the_same_tokens_when_they_are_sent_back(tiny, model):
    """A first version spoke words with a space before them, which a line end before swallows."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    made = model.generate(torch.tensor([ids]), max_new_tokens=30)[0].tolist()
    assert len(made) == len(ids) + 30
    text = tokenizer.decode(made[len(ids) :])
    assert tokenizer.encode(prompt + text, add_special_tokens=False) == made


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        make_model("nonsense", tmp_path)
