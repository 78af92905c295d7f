"""Which GGUF files the step in C takes, and what it reads in them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers

from llmapi_kit.checkpoints.gguf_decoder import gguf_decoder
from llmapi_kit.checkpoints.gguf_file import open_gguf

from .gguf_files import write_model

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def make(model_type="llama", **fields):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SHAPE, **fields})
    return transformers.AutoModelForCausalLM.from_config(config)


def tokenizer(writer):
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"w{i}" for i in range(SHAPE["vocab_size"])])
    writer.add_token_merges(["w 1"])


def put(key, value, kind=gguf.GGUFValueType.UINT32):
    return lambda writer: writer.add_key_value(key, value, kind)


def stretched(writer):
    """Positions that are scaled, all alike."""
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


SCALED = {
    "frequencies": lambda writer: writer.add_tensor("rope_freqs.weight", np.linspace(1, 8, 32, dtype=np.float32)),
    "linear": stretched,
}


def read(path, model, **options):
    with torch.no_grad():
        return gguf_decoder(open_gguf(write_model(path, model, tokenizer=tokenizer, **options)))


@pytest.mark.parametrize("model_type", sorted(CLASSES))
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_files_configuration_is_that_of_its_model(model_type, is_tied, tmp_path):
    own_width = {"head_dim": 32} if model_type == "qwen3" else {}
    model = make(model_type, tie_word_embeddings=is_tied, **own_width)
    decoder = read(tmp_path / "m.gguf", model)
    config, theirs = decoder.config, model.config
    assert config.architecture == CLASSES[model_type]
    names = [name for name in SHAPE if name != "rms_norm_eps"]
    assert [getattr(config, name) for name in names] == [getattr(theirs, name) for name in names]
    assert config.rms_norm_eps == pytest.approx(theirs.rms_norm_eps)
    assert config.head_dim == (32 if model_type == "qwen3" else 64)
    assert (config.tie_word_embeddings, config.has_qk_norm) == (is_tied, model_type == "qwen3")
    assert config.has_qkv_bias == (model_type == "qwen2")
    expected = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    if is_tied:
        del expected["lm_head.weight"]
    assert {name: each.tensor.shape for name, each in decoder.tensors.items()} == expected
    assert decoder.weights_bytes == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(("kind", "bits"), [("F32", 0), ("F16", 0), ("BF16", 0), ("Q8_0", 8), ("Q4_0", 4), ("Q5_1", 8)])
def test_matrices_have_the_bits_that_their_format_needs(kind, bits, tmp_path):
    decoder = read(tmp_path / "m.gguf", make(), kind=kind)
    found = {name: each.bits for name, each in decoder.tensors.items()}
    assert found["model.layers.1.mlp.down_proj.weight"] == bits
    assert found["model.embed_tokens.weight"] == bits
    assert found["model.norm.weight"] == 0
    assert decoder.has_integers == bool(bits)


def test_matrices_that_are_one_product_have_the_same_bits(tmp_path):
    def more(writer):
        tensors = writer.tensors[-1]
        stored = tensors["blk.0.attn_v.weight"]
        rows = gguf.quantize(
            gguf.dequantize(stored.tensor, gguf.GGMLQuantizationType.Q4_0), gguf.GGMLQuantizationType.Q8_0
        )
        tensors["blk.0.attn_v.weight"] = gguf.gguf_writer.TensorInfo(
            stored.shape, gguf.GGMLQuantizationType.Q8_0, rows.nbytes, rows
        )

    tensors = read(tmp_path / "m.gguf", make(), kind="Q4_0", extra=more).tensors
    layers = [[tensors[f"model.layers.{i}.self_attn.{name}_proj.weight"].bits for name in "qkvo"] for i in range(2)]
    assert layers == [[8, 8, 8, 4], [4, 4, 4, 4]]


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("llama.attention.sliding_window", 8, gguf.GGUFValueType.UINT32),
        ("llama.expert_count", 4, gguf.GGUFValueType.UINT32),
        ("llama.a_key_to_come", 1, gguf.GGUFValueType.UINT32),
        ("llama.rope.scaling.type", "yarn", gguf.GGUFValueType.STRING),
        ("llama.rope.scaling.factor", 2.0, gguf.GGUFValueType.FLOAT32),
        ("llama.rope.dimension_count", 32, gguf.GGUFValueType.UINT32),
        ("llama.rope.freq_base", float("nan"), gguf.GGUFValueType.FLOAT32),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, gguf.GGUFValueType.FLOAT32),
        ("llama.attention.head_count_kv", 3, gguf.GGUFValueType.UINT32),
        ("llama.block_count", 3, gguf.GGUFValueType.UINT32),
        ("llama.feed_forward_length", 2**31, gguf.GGUFValueType.UINT32),
        ("general.architecture", "llama4", gguf.GGUFValueType.STRING),
    ],
)
def test_what_is_not_known_is_left_to_llama_cpp(key, value, kind, tmp_path):
    assert read(tmp_path / "m.gguf", make()) is not None

    def change(writer):
        for values in writer.kv_data:
            values.pop(key, None)
        writer.add_key_value(key, value, kind)

    with torch.no_grad():
        path = write_model(tmp_path / "n.gguf", make(), tokenizer=tokenizer, extra=change)
    assert gguf_decoder(open_gguf(path)) is None


def test_a_window_of_nothing_is_none(tmp_path):
    decoder = read(tmp_path / "m.gguf", make(), extra=put("llama.attention.sliding_window", 0))
    assert decoder.config.windows == (0, 0)


def test_a_tensor_that_has_no_place_is_left_to_llama_cpp(tmp_path):
    def more(writer):
        writer.add_tensor("blk.0.attn_rot_embd.weight", np.ones(4, np.float32))

    assert read(tmp_path / "m.gguf", make(), extra=more) is None


@pytest.mark.parametrize("scaling", SCALED)
def test_scaled_positions_are_read(scaling, tmp_path):
    decoder = read(tmp_path / "m.gguf", make(), extra=SCALED[scaling])
    assert (decoder.frequencies is not None) == (scaling == "frequencies")
    assert decoder.config.ropes[0].factor == (4.0 if scaling == "linear" else 0.0)


def test_a_file_that_would_grow_much_is_left_to_llama_cpp(tmp_path, monkeypatch):
    monkeypatch.setattr("llmapi_kit.checkpoints.gguf_decoder.FREE_GROWTH_BYTES", 0)
    assert read(tmp_path / "m.gguf", make(), kind="Q8_0") is not None
    assert read(tmp_path / "n.gguf", make(), kind="Q5_1") is None  # 9 bits a weight in place of 6
