"""GGUF files as models: the weights they store, exactly, and a refusal of all that is not understood."""

from __future__ import annotations

import random
import resource

import gguf
import numpy as np
import pytest
import torch
import transformers

from llmapi_kit.errors import (
    ModelError,
    ModelLoadError,
    UnsupportedModelError,
)
from llmapi_kit.models import fit
from llmapi_kit.models.gguf import check_gguf, load_weights, open_gguf
from llmapi_kit.models.spec import parse_spec
from llmapi_kit.models.weights import load_model
from llmapi_kit.runners.torch_runner import TorchRunner
from tests.models.gguf_files import KINDS, stored_names, write_model

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True, "head_dim": 32}),
    "llama with biases": ("LlamaForCausalLM", {"attention_bias": True}),
    "qwen2": ("Qwen2ForCausalLM", {"rms_norm_eps": 1e-5}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
}
IDS = torch.arange(50)[None] * 7 % 96


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More only wait for each other in models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(family):
    """A random model of a family; its biases and norms are not the usual ones and zeros."""
    name, options = FAMILIES[family]
    cls = getattr(transformers, name)
    torch.manual_seed(2)
    model = cls(cls.config_class(**{**SHAPE, **options})).eval().requires_grad_(False)
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape) * 0.2)
    return model


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_weights_are_those_that_the_file_stores(family, kind, tmp_path):
    model = make(family)
    opened = open_gguf(write_model(tmp_path / "m.gguf", model, kind=kind))
    loaded = load_weights(opened, torch.float32)
    assert type(loaded) is type(model)
    for (name, mine), (_, theirs) in zip(loaded.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert torch.equal(logits(loaded), logits(model))
    assert opened.stored_dtype == {"F32": "float32", "F16": "float16"}.get(kind, "bfloat16")


def test_a_file_is_served_by_the_native_step(tmp_path):
    loaded = load_weights(open_gguf(write_model(tmp_path / "m.gguf", make("qwen3"), kind="Q8_0")), torch.float32)
    runner = TorchRunner(loaded, num_slots=2, max_length=64)
    assert runner.kind == "native"
    runner.close()


def add_llama3_frequencies(factor, low=1.0, high=4.0, old=8192):
    def add(writer):
        wavelengths = 2 * np.pi * 500000.0 ** (np.arange(0, 16, 2) / 16)
        smooth = np.clip((old / wavelengths - low) / (high - low), 0, 1)
        divisors = 1 / ((1 - smooth) / factor + smooth)
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))

    return add


def test_llama_3_rotary_scaling_is_found_again(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = make("llama")
    path = write_model(tmp_path / "m.gguf", model, extra=add_llama3_frequencies(32.0))
    opened = open_gguf(path)
    assert opened.config.rope_parameters == scaling
    scaled = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, rope_parameters=scaling)).eval()
    scaled.load_state_dict(model.state_dict())
    loaded = load_weights(opened, torch.float32)
    assert torch.equal(logits(loaded), logits(scaled))
    assert not torch.allclose(logits(loaded), logits(model))


def test_other_rotary_divisors_are_refused(tmp_path):
    path = write_model(tmp_path / "m.gguf", make("llama"), extra=add_llama3_frequencies(8.0, low=2.0))
    with pytest.raises(UnsupportedModelError, match="rope_freqs"):
        open_gguf(path)


@pytest.mark.parametrize("says_linear", [True, False])
def test_linear_rotary_scaling_is_taken_over(says_linear, tmp_path):
    def scaled_linearly(writer):
        writer.add_rope_scaling_factor(4.0)
        if says_linear:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)

    model = make("qwen2")
    loaded = load_weights(open_gguf(write_model(tmp_path / "m.gguf", model, extra=scaled_linearly)), torch.float32)
    config = transformers.Qwen2Config(
        **{**SHAPE, "rms_norm_eps": 1e-5},
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    )
    scaled = transformers.Qwen2ForCausalLM(config).eval()
    scaled.load_state_dict(model.state_dict())
    assert torch.equal(logits(loaded), logits(scaled))


def put(key, value, kind=gguf.GGUFValueType.UINT32):
    """Replace a key, or add one."""

    def change(writer):
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, kind)

    return change


def drop(key):
    return lambda writer: writer.kv_data[0].pop(key)


def drop_tensor(name):
    return lambda writer: writer.tensors[0].pop(name)


def add_tensor(name, shape=(8,)):
    return lambda writer: writer.add_tensor(name, np.zeros(shape, np.float32))


FLOAT, STRING = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
REFUSED = {
    "another architecture": (put("general.architecture", "falcon", STRING), "falcon"),
    "images": (put("general.architecture", "clip", STRING), "images are not supported"),
    "no architecture": (drop("general.architecture"), "None"),
    "an architecture that is a number": (put("general.architecture", 3), "'3'"),
    "one part of three": (put("split.count", 3), "--merge"),
    "experts": (put("llama.expert_count", 8), "experts"),
    "an unknown parameter": (put("llama.logit_scale", 2.0, FLOAT), r"llama\.logit_scale"),
    "an unknown tensor": (add_tensor("blk.0.ffn_gate_inp.weight"), "ffn_gate_inp"),
    "a missing tensor": (drop_tensor("blk.1.ffn_up.weight"), r"no tensor blk\.1\.ffn_up\.weight"),
    "no embedding": (drop_tensor("token_embd.weight"), r"token_embd\.weight"),
    "two thousand million layers": (put("llama.block_count", 2**31 - 1), "layers"),
    "a layer too many": (put("llama.block_count", 3), r"blk\.2"),
    "a list for the architecture": (
        lambda writer: (
            writer.kv_data[0].pop("general.architecture"),
            writer.add_array("general.architecture", [1, 2]),
        ),
        "is a list",
    ),
    "a list of numbers of parts": (lambda writer: writer.add_array("split.count", [1, 2]), "is a list"),
    "a list of experts": (lambda writer: writer.add_array("llama.expert_count", [0, 0]), "is a list"),
    "a list for the rotary scaling": (
        lambda writer: writer.add_array("llama.rope.scaling.type", ["none"]),
        "is a list",
    ),
    "no layers": (put("llama.block_count", 0), "block_count"),
    "no heads": (put("llama.attention.head_count", 0), "head_count"),
    "other heads": (put("llama.attention.head_count", 8), "another size"),
    "other heads for keys": (put("llama.attention.head_count_kv", 4), r"blk\.0\.attn_k\.weight is \(32, 64\)"),
    "a list of heads": (
        lambda writer: (writer.kv_data[0].pop("llama.attention.head_count"), writer.add_head_count([4, 2])),
        "head_count",
    ),
    "another width": (put("llama.embedding_length", 128), "another size"),
    "no context": (put("llama.context_length", 0), "context_length"),
    "no length of a context": (drop("llama.context_length"), "context_length"),
    "an endless context": (put("llama.context_length", 2**32 - 1), "context_length"),
    "an epsilon that is no number": (put("llama.attention.layer_norm_rms_epsilon", float("nan"), FLOAT), "epsilon"),
    "a negative rotary base": (put("llama.rope.freq_base", -1.0, FLOAT), "freq_base"),
    "half a head rotated": (put("llama.rope.dimension_count", 8), "another size"),
    "values of another size": (put("llama.attention.value_length", 8), "another size"),
    "no direction": (put("llama.attention.causal", False, gguf.GGUFValueType.BOOL), "both directions"),
    "a factor that is no number": (put("llama.rope.scaling.factor", float("nan"), FLOAT), "linear"),
    "yarn": (put("llama.rope.scaling.type", "yarn", STRING), "yarn"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_is_not_understood_is_refused_by_name(case, tmp_path):
    change, match = REFUSED[case]
    path = write_model(tmp_path / "m.gguf", make("llama"), extra=change)
    with pytest.raises((UnsupportedModelError, ModelLoadError), match=match):
        open_gguf(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = make("llama")
    model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(ModelLoadError, match=r"blk\.1\.ffn_up\.weight"):
        load_weights(open_gguf(write_model(tmp_path / "m.gguf", model)), torch.float32)


def test_a_format_that_nothing_here_dequantises_is_refused_by_name(tmp_path):
    def change(writer):
        kind = gguf.GGMLQuantizationType.Q8_K
        _, size = gguf.GGML_QUANT_SIZES[kind]
        writer.tensors[0].pop("token_embd.weight")
        writer.add_tensor("token_embd.weight", np.zeros((96, size), np.uint8), raw_dtype=kind)
        writer.kv_data[0].pop("llama.embedding_length")
        writer.add_embedding_length(256)

    _, options = FAMILIES["llama"]
    torch.manual_seed(2)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SHAPE, "hidden_size": 256, **options}))
    opened = open_gguf(write_model(tmp_path / "m.gguf", model.requires_grad_(False), extra=change))
    with pytest.raises(UnsupportedModelError, match="Q8_K"):
        load_weights(opened, torch.float32)


@pytest.mark.slow
def test_mutated_files_load_or_say_why_not(tmp_path):
    """Random bytes of the head changed: never another error, never a long wait or much memory."""
    path = write_model(tmp_path / "m.gguf", make("llama, tied"), kind="Q8_0")
    whole = path.read_bytes()
    head = min(place.offset for place in open_gguf(path).header.tensors.values())
    dice = random.Random(17)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(600):
        mutated = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 6))):
            mutated[dice.randrange(head)] = dice.choice((0, 1, 128, 255, dice.randrange(256)))
        path.write_bytes(mutated)
        try:
            load_weights(open_gguf(path), torch.float32)
        except ModelError:
            refused += 1
    assert 200 < refused < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_file_cut_short_is_damaged(tmp_path):
    path = write_model(tmp_path / "m.gguf", make("llama"))
    whole = path.read_bytes()
    for length in (0, 3, 4, 23, 24, 500, len(whole) // 2, len(whole) - 5000):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match=r"m\.gguf"):
            open_gguf(path)


def test_memory_is_counted_dequantised(tmp_path, monkeypatch):
    path = write_model(tmp_path / "m.gguf", make("llama"), kind="Q4_0")
    opened = open_gguf(path)
    assert opened.num_parameters == sum(tensor.numel() for _, _, tensor in stored_names(make("llama")))
    found = check_gguf(opened, "cpu", "float32")
    assert found.weights_bytes == 4 * opened.num_parameters + 4 * 64 * 96
    assert found.weights_bytes > 5 * path.stat().st_size
    assert found.context_length == 256
    assert check_gguf(opened, "cpu", "bfloat16").kv_bytes_per_token * 2 == found.kv_bytes_per_token
    more = check_gguf(opened, "cpu", "float32", num_rows=100, added_bytes=5)
    assert more.weights_bytes - found.weights_bytes == 4 * 64 * 2 * 4 + 5
    monkeypatch.setattr(fit, "free_memory", lambda device: found.weights_bytes)
    with pytest.raises(ModelLoadError, match="does not fit"):
        load_model(parse_spec(str(path)), device="cpu", tokenizer="pocket")
