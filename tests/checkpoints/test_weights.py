"""Loading real folders, good and damaged, and how memory becomes slots."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers

from llmapi_kit.checkpoints import fit
from llmapi_kit.checkpoints.cache_size import kv_bytes_per_token
from llmapi_kit.checkpoints.decoder_weights import DecoderWeights
from llmapi_kit.checkpoints.fit import check_folder, plan_slots
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.errors import (
    ConfigError,
    ModelLoadError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from llmapi_kit.loading.load_request import make_engine


@pytest.fixture
def folder(tmp_path):
    """A copy of the pocket model to damage."""
    return shutil.copytree(POCKET_DIR, tmp_path / "copy")


def test_pocket_loads_as_float32_on_the_cpu_and_is_greedy_by_default():
    loaded = load_model(parse_spec("pocket"), device="cpu")
    assert (loaded.device, loaded.dtype, loaded.context_length) == ("cpu", "float32", 2048)
    assert loaded.eos_ids
    assert loaded.sampling_defaults == {"temperature": 0.0}


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("options", "stored", "arithmetic"),
    [({}, torch.bfloat16, torch.float32), ({"dtype": "bfloat16"}, torch.bfloat16, torch.bfloat16)],
)
def test_a_step_in_c_gets_weights_without_a_model(options, stored, arithmetic):
    asked = []
    loaded = load_model(
        parse_spec("pocket"), device="cpu", **options, has_native=lambda *types: asked.append(types) or True
    )
    theirs = load_model(parse_spec("pocket"), device="cpu", **options)
    assert isinstance(loaded.model, DecoderWeights)
    assert asked == [(stored, arithmetic, None)]
    assert loaded.model.dtype == stored
    assert loaded.model.num_parameters() == theirs.model.num_parameters()
    names = ("device", "dtype", "eos_ids", "context_length", "sampling_defaults")
    assert all(getattr(loaded, name) == getattr(theirs, name) for name in names)


@pytest.mark.parametrize(
    ("values", "options", "has_native"),
    [
        ({}, {}, False),
        ({}, {"dtype": "float32"}, True),
        ({"dtype": "float32", "torch_dtype": "float32"}, {}, True),
        ({}, {"dtype": "float16"}, True),
        ({"num_key_value_groups": 2}, {}, True),
    ],
    ids=["no step for these types", "to be widened", "declared as another type", "half precision", "an unknown field"],
)
def test_where_a_step_in_c_has_no_weights_a_model_is_loaded(values, options, has_native, folder):
    change(folder, **values)
    loaded = load_model(parse_spec(str(folder)), device="cpu", **options, has_native=lambda *types: has_native)
    assert loaded.model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 3072)


def test_a_tokenizer_with_more_tokens_adds_rows_to_weights_too(tmp_path, caplog):
    larger = load_model(parse_spec("pocket"), device="cpu").tokenizer
    larger.add_tokens(["<one more>"])
    larger.save_pretrained(tmp_path)
    options = {"device": "cpu", "tokenizer": str(tmp_path)}
    mine = load_model(parse_spec("pocket"), **options, has_native=lambda *types: True).model
    assert "Nothing trained the new rows" in caplog.text
    theirs = load_model(parse_spec("pocket"), **options).model
    assert torch.equal(mine.tensors["model.embed_tokens.weight"], theirs.get_input_embeddings().weight)
    assert mine.vocab_size == 3073


def test_recommended_sampling_is_read_from_the_model(folder):
    config = {"do_sample": True, "temperature": 0.6, "top_k": 20, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(config))
    assert load_model(parse_spec(str(folder))).sampling_defaults == {"temperature": 0.6, "top_k": 20}
    (folder / "generation_config.json").unlink()
    assert load_model(parse_spec(str(folder))).sampling_defaults == {}


def test_weights_in_bfloat16_stay_so_on_a_cpu_unless_asked():
    assert load_model(parse_spec("pocket"), device="cpu").model.dtype == torch.bfloat16
    asked = load_model(parse_spec("pocket"), device="cpu", dtype="float32")
    assert (asked.dtype, asked.model.dtype) == ("float32", torch.float32)


def test_dtype_and_device_are_honoured_or_refused():
    assert load_model(parse_spec("pocket"), dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        load_model(parse_spec("pocket"), dtype="int3")
    with pytest.raises(ConfigError, match="GPU"):
        load_model(parse_spec("pocket"), device="cuda:7")
    with pytest.raises(ConfigError, match="'cpu'"):
        load_model(parse_spec("pocket"), device="toaster")


@pytest.mark.parametrize(("quantize", "bits"), [("int8", 8), ("int4", 4)])
def test_weights_are_integers_on_a_cpu_also_with_other_tokens(quantize, bits):
    loaded = load_model(parse_spec("pocket"), device="cpu", quantize=quantize, has_native=lambda *formats: True)
    assert loaded.model.integers.bits == bits
    assert loaded.dtype == "float32"
    assert loaded.model.num_bytes < {8: 0.6, 4: 0.4}[bits] * 2 * loaded.model.num_parameters()


@pytest.mark.parametrize("options", [{"quantize": "int8"}, {"kv_cache_dtype": "int8"}])
def test_without_the_compiled_step_its_formats_are_refused_by_name(options):
    ((name, value),) = options.items()
    with pytest.raises(
        UnsupportedModelError, match=rf"{name}='{value}' is computed by the compiled step.*native=False"
    ):
        load_model(parse_spec("pocket"), device="cpu", has_native=None, **options)


@pytest.mark.parametrize("damage", ["truncated", "not safetensors", "bad config", "unknown architecture"])
def test_damaged_files_are_a_clear_error(folder, damage):
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100_000])
    elif damage == "not safetensors":
        weights.write_bytes(b"PK\x03\x04" * 100)
    elif damage == "bad config":
        (folder / "config.json").write_text("{")
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    with pytest.raises(ModelLoadError, match="copy"):
        load_model(parse_spec(str(folder)))


def test_a_model_without_a_chat_template_serves_completions_only(folder):
    (folder / "chat_template.jinja").unlink()
    engine = make_engine(parse_spec(str(folder)), Settings())
    try:
        assert engine.info.capabilities == ("completions", "embeddings")
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["", "./nowhere", "owner/name"])
def test_a_tokenizer_that_is_not_there_says_so(name):
    with pytest.raises(ModelNotFoundError, match="tokenizer"):
        load_model(parse_spec("pocket"), device="cpu", tokenizer=name)


def test_a_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text('{"model": 5}')
    with pytest.raises(ModelLoadError, match=r"The tokenizer .*copy"):
        load_model(parse_spec("pocket"), device="cpu", tokenizer=str(folder))


def test_what_a_model_needs_is_said_before_it_is_loaded(monkeypatch):
    found = check_folder(POCKET_DIR, "cpu")
    assert found.fits
    assert found.weights_bytes == (POCKET_DIR / "model.safetensors").stat().st_size
    assert found.context_length == 2048
    monkeypatch.setattr(fit, "free_memory", lambda device: 1_000_000)
    tight = check_folder(POCKET_DIR, "cpu")
    assert not tight.fits
    assert "not enough" in tight.advice
    assert "Nor does it fit in fewer bits here" in tight.advice
    with pytest.raises(ModelLoadError, match="does not fit"):
        load_model(parse_spec("pocket"))


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [
        ("cpu", "float32", 'With dtype="bfloat16" the weights would take 9 MiB, and fit.'),
        ("cpu", "bfloat16", 'With quantize="int8" the weights would take 4 MiB, and fit.'),
        ("cuda:0", "bfloat16", 'With quantize="8bit" the weights would take 4 MiB, and fit.'),
    ],
)
def test_what_would_fit_is_proposed(device, dtype, words, monkeypatch):
    found = check_folder(POCKET_DIR, "cpu")
    free = found.step_bytes + found.weights_bytes * (1.7 if dtype == "float32" else 0.9)
    monkeypatch.setattr(fit, "free_memory", lambda device: free)
    assert words in check_folder(POCKET_DIR, device, dtype=dtype).advice


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.MambaConfig(), 0),
        (transformers.GPTNeoConfig(num_layers=2, attention_types=[[["global"], 2]]), 2 * 2 * 2048 * 4),
        (transformers.MptConfig(n_layers=2, d_model=64), 2 * 2 * 64 * 4),
        (transformers.FalconConfig(num_hidden_layers=2, num_attention_heads=8, hidden_size=64), 2 * 2 * 8 * 4),
        (
            transformers.DeepseekV3Config(
                num_hidden_layers=2, num_attention_heads=4, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8
            ),
            2 * 4 * (12 + 8) * 4,
        ),
        (transformers.JambaConfig(num_hidden_layers=8), 2 * 8 * 128 * 4),
    ],
    ids=["mamba", "gpt_neo", "mpt", "falcon", "mla", "jamba"],
)
def test_what_a_token_takes_is_known_however_a_family_names_it(config, expected):
    assert kv_bytes_per_token(config, "float32") == expected


def test_kv_bytes_in_int8_count_the_scales():
    config = SimpleNamespace(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    assert kv_bytes_per_token(config, "int8") == 3 * 2 * 2 * (8 + 4)


def test_kv_bytes_count_key_value_heads_only():
    config = SimpleNamespace(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    assert kv_bytes_per_token(config, "float32") == 2 * 3 * 2 * 8 * 4
    assert kv_bytes_per_token(config, "bfloat16") == 2 * 3 * 2 * 8 * 2


@pytest.mark.parametrize(
    ("budget", "slots", "length"),
    [(10**9, 32, 1000), (10 * 1000 * 100, 10, 1000), (500 * 100, 1, 500)],
    ids=["plenty", "fewer slots", "shorter slots"],
)
def test_memory_becomes_slots_then_shorter_slots(budget, slots, length):
    plan = plan_slots(100, 1000, 10**12, False, Settings(kv_memory=budget))
    assert (plan.num_slots, plan.max_length) == (slots, length)
    assert plan.kv_bytes <= budget


@pytest.mark.parametrize(
    ("budget", "slots", "length", "num_full"),
    [(10**9, 32, 1000, 32), (10 * 1000 * 100, 32, 1000, 9), (500 * 100, 32, 448, 1)],
    ids=["plenty", "shared", "shorter slots"],
)
def test_slots_that_grow_in_pages_share_memory_for_fewer(budget, slots, length, num_full):
    plan = plan_slots(100, 1000, 10**12, False, Settings(kv_memory=budget), is_paged=True)
    assert (plan.num_slots, plan.max_length, plan.num_full_slots) == (slots, length, num_full)
    assert plan.max_length <= plan.num_tokens
    assert plan.num_tokens * 100 <= plan.kv_bytes <= budget


def test_less_context_than_asked_for_is_told_with_what_would_do():
    def plan(**settings):
        return plan_slots(100, 0, 10**12, False, Settings(kv_memory=10**6, **settings), is_paged=True, int8_bytes=25)

    told = plan(context_length=32768)
    assert told.max_length == 9984
    assert "9,984 tokens, not 32,768" in told.advice
    assert 'kv_cache_dtype="int8", which holds 40,000' in told.advice
    assert f"kv_memory={100 * 32768}" in told.advice
    assert plan(context_length=4096).advice == plan().advice == ""
    with pytest.raises(ModelLoadError, match="int8"):
        plan_slots(10**4, 0, 10**12, False, Settings(kv_memory=10**6), int8_bytes=25)


@pytest.mark.parametrize("num_that_fit", [1, 2, 7])
def test_on_a_gpu_the_slot_that_is_allocated_beside_them_is_counted_too(num_that_fit):
    plan = plan_slots(100, 1000, num_that_fit * 1000 * 100, True, Settings())
    allocated = (plan.num_slots + 1) * plan.max_length * 100
    assert plan.kv_bytes == allocated <= 0.8 * num_that_fit * 1000 * 100


def test_too_little_memory_for_the_shortest_request_is_an_error():
    with pytest.raises(ModelLoadError, match="LLMAPI_KIT_KV_MEMORY"):
        plan_slots(100, 1000, 10**12, False, Settings(kv_memory=100 * 100))


def test_asking_for_more_context_than_the_model_has_gives_what_it_has():
    assert plan_slots(100, 1000, 10**12, False, Settings(context_length=5000)).max_length == 1000
    assert plan_slots(100, 1000, 10**12, False, Settings(context_length=300)).max_length == 300
