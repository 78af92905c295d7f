"""GGUF files through the step in C: the logits of their weights, and when llama.cpp computes instead."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from llmapi_kit.checkpoints.gguf_decoder import GGUF_FAMILIES, gguf_decoder
from llmapi_kit.checkpoints.gguf_file import open_gguf
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.loading.gguf_native import make_native_runner, native_decoder, native_plan
from llmapi_kit.loading.gguf_options import GgufOptions
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_steps import LlamaSteps
from tests.checkpoints.gguf_files import write_model
from tests.checkpoints.test_gguf_decoder import SCALED, make, read, tokenizer
from tests.runners import architectures

pytestmark = pytest.mark.slow

IDS = [[5, 9, 2, 60, 33, 1, 7], [3], [8, 8, 41, 17, 20, 4, 4, 4, 50, 11, 12]]
F32 = Settings(max_slots=3, context_length=64)


@pytest.fixture
def native():
    """Makes a runner for what was understood of a file."""
    made = []

    def start(decoder, options=None):
        options = options or GgufOptions()
        runner, _ = make_native_runner(decoder, native_plan(decoder, F32, options), F32, options)
        runner.start()
        made.append(runner)
        return runner

    yield start
    for runner in made:
        runner.close()


def logits_of(runner):
    """Of prompts of one step, and of one token more of each."""
    first = torch.as_tensor(runner.step([StepItem(slot, 0, ids, True) for slot, ids in enumerate(IDS)])).clone()
    more = torch.as_tensor(runner.step([StepItem(slot, len(ids), [6], True) for slot, ids in enumerate(IDS)]))
    return torch.cat((first, more.clone()))


def logits_of_llama_cpp(path):
    """The same by llama.cpp."""
    steps = LlamaSteps(LlamaModel(path, n_gpu_layers=0), num_slots=3, max_length=64, num_threads=1)
    try:
        return logits_of(steps)
    finally:
        steps.close()


@torch.inference_mode()
def expected_of(model):
    whole = [model(torch.tensor([[*ids, 6]])).logits[0] for ids in IDS]
    return torch.stack([each[-2] for each in whole] + [each[-1] for each in whole])


def error_of(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_logits_are_those_of_the_weights_that_the_file_stores(model_type, kind, native, tmp_path):
    model = make(model_type, tie_word_embeddings=kind == "F16")
    decoder = read(tmp_path / "m.gguf", model, kind=kind)
    options = GgufOptions(kv_cache_dtype="f32")
    assert error_of(logits_of(native(decoder, options)), expected_of(model)) < (1e-5 if kind == "F32" else 1e-4)


def test_biases_have_their_places(native, tmp_path):
    model = make("llama", attention_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    assert error_of(logits_of(native(read(tmp_path / "m.gguf", model))), expected_of(model)) < 1e-5


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q6_K"])
def test_k_quants_stay_as_near_to_their_weights_as_in_llama_cpp(kind, native, tmp_path):
    from benchmarks.quantize_gguf import quantize_gguf

    model = make("llama", num_hidden_layers=4)
    read(tmp_path / "m.gguf", model)
    path = quantize_gguf(tmp_path / "m.gguf", tmp_path / "k.gguf", kind)
    decoder = gguf_decoder(open_gguf(path))
    stored = {
        name: torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type))).float()
        for name, tensor in ((each.name, each) for each in gguf.GGUFReader(path).tensors)
    }
    with torch.no_grad():
        write_back(model, stored)
    expected = expected_of(model)
    theirs = logits_of_llama_cpp(path)
    ours = logits_of(native(decoder, GgufOptions(kv_cache_dtype="f32")))
    assert error_of(ours, expected) < 0.02
    assert (ours - expected).square().mean() < 1.3 * (theirs - expected).square().mean()


def write_back(model, stored):
    """Give a Llama the weights of a file."""
    from tests.checkpoints.gguf_files import stored_names

    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for stored_name, name, tensor in stored_names(model):
        values = stored[stored_name].view(tensor.shape)
        part = name.split(".")[-2]
        if part in heads:
            values = values.view(heads[part], -1, 2, values.shape[1]).transpose(1, 2).reshape(tensor.shape)
        tensor.copy_(values)


@pytest.mark.parametrize("scaling", SCALED)
def test_scaled_positions_are_computed_as_llama_cpp_does(scaling, native, tmp_path):
    decoder = read(tmp_path / "m.gguf", make(), extra=SCALED[scaling])
    theirs = logits_of_llama_cpp(tmp_path / "m.gguf")
    assert error_of(logits_of(native(decoder)), theirs) < 2e-3  # keys and values in half precision there


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attn": True},
        {"isolate": True},
        {"use_mlock": True},
        {"n_gpu_layers": 0},
        {"rope_freq_scale": 0.5},
        {"kv_cache_dtype": "q8_0"},
        {"device": "cuda"},
    ],
    ids=str,
)
def test_what_is_asked_for_in_llama_cpps_terms_is_llama_cpps(options, tmp_path):
    read(tmp_path / "m.gguf", make())
    file = open_gguf(tmp_path / "m.gguf")
    assert native_decoder(file, Settings(), GgufOptions()) is not None
    assert native_decoder(file, Settings(), GgufOptions(device="cpu", kv_cache_dtype="bf16")) is not None
    assert native_decoder(file, Settings(), GgufOptions(**options)) is None
    assert native_decoder(file, Settings(native=False), GgufOptions()) is None


@pytest.mark.parametrize("is_native", [True, False])
def test_without_a_compiled_step_llama_cpp_computes(is_native, pocket_gguf, monkeypatch):
    from llmapi_kit.runners.native.decoder import NativeDecoder

    monkeypatch.setattr(NativeDecoder, "is_available", lambda *_: is_native)
    engine = make_engine(parse_spec(str(pocket_gguf)), Settings(max_slots=1, context_length=64))
    engine.close()
    assert engine.info.description.endswith("in C" if is_native else "through llama.cpp")


def test_weights_that_are_no_numbers_are_named(tmp_path):
    from llmapi_kit.errors import ModelLoadError

    model = make()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    with torch.no_grad():
        write_model(tmp_path / "m.gguf", model, tokenizer=tokenizer)
    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.up_proj\.weight has values that are not finite"):
        make_engine(parse_spec(str(tmp_path / "m.gguf")), F32)


@pytest.mark.parametrize(
    ("architecture", "num_layers"),
    [
        ("llama", 2),
        ("llama with experts", 2),
        ("qwen2", 2),
        ("qwen3", 2),
        ("gemma", 2),
        ("gemma2", 4),
        ("gemma2", 46),
        ("gemma3", 7),
        ("gemma3", 62),
        ("olmo2", 2),
        ("granite", 2),
        ("phi3", 2),
        ("qwen3moe", 2),
    ],
)
def test_every_family_has_the_logits_that_llama_cpp_has(architecture, num_layers, native, tmp_path, monkeypatch):
    monkeypatch.setattr(architectures, "LAYERS", num_layers)
    architectures.write_random(tmp_path / "m.gguf", architecture)
    decoder = gguf_decoder(open_gguf(tmp_path / "m.gguf"))
    theirs = logits_of_llama_cpp(tmp_path / "m.gguf")
    assert error_of(logits_of(native(decoder)), theirs) < 5e-3  # keys and values in half precision there


def test_experts_keep_their_integers_and_the_router_its_floats(native, tmp_path, monkeypatch):
    def as_integers(writer, name, values, *options):
        if values.ndim < 2 or name.endswith("ffn_gate_inp.weight"):
            return add_tensor(writer, name, values, *options)
        raw = gguf.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType.Q8_0)
        return add_tensor(writer, name, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    add_tensor = gguf.GGUFWriter.add_tensor
    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", as_integers)
    architectures.write_random(tmp_path / "m.gguf", "qwen3moe")
    decoder = gguf_decoder(open_gguf(tmp_path / "m.gguf"))
    assert decoder.tensors["model.layers.1.mlp.experts.3.down_proj.weight"].bits == 8
    assert decoder.tensors["model.layers.1.mlp.gate.weight"].bits == 0
    theirs = logits_of_llama_cpp(tmp_path / "m.gguf")
    assert error_of(logits_of(native(decoder)), theirs) < 0.05  # inputs in 8 bits there


def test_every_family_is_tried():
    tried = {"llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "granite", "phi3", "qwen3moe"}
    assert GGUF_FAMILIES.keys() == tried
