"""LoRA adapters made by PEFT, merged: the same answers as PEFT's own model."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from llmapi_kit.checkpoints import fit
from llmapi_kit.checkpoints.adapter_files import find_adapter
from llmapi_kit.checkpoints.adapters import apply_adapter
from llmapi_kit.checkpoints.fit import check_folder
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.checkpoints.vocabulary import fit_embeddings
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.errors import ModelLoadError
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.loading.model import Model
from llmapi_kit.runners.torch_runner import TorchRunner
from tests.checkpoints.lora_files import ALL_LINEAR, by_peft, greedy, pocket, save_adapter, tiny

QUESTIONS = ("What is the capital of France?", "你好", "Count from 3 to 7.")
VARIANTS = {
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "every projection": {"target_modules": ALL_LINEAR, "r": 16, "lora_alpha": 4},
    "a pattern of names": {"target_modules": r".*\.(1|3)\..*_proj"},
    "some layers": {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [0, 2]},
    "rank-stabilised": {"target_modules": ["k_proj"], "use_rslora": True},
    "decomposed": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "ranks of their own": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"v_proj": 32},
    },
    "biases of its own": {"target_modules": ["q_proj", "o_proj"], "lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "output layer trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "norms trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "norm"]},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More only wait for each other in models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A LoRA of the pocket model."""
    return save_adapter(tmp_path_factory.mktemp("plain") / "lora", pocket(), target_modules=ALL_LINEAR)


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_merged_model_answers_as_peft_does(variant, tmp_path):
    folder = save_adapter(tmp_path / "lora", tiny(), **VARIANTS[variant])
    merged = apply_adapter(tiny(), find_adapter(str(folder)))
    theirs = by_peft(folder, tiny())
    ids = torch.arange(40)[None] * 7 % 60
    with torch.inference_mode():
        expected, without = theirs(ids).logits, tiny()(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert (expected - without).abs().max() > 1e-3  # the adapter does something
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(merged.generate(ids, **options), theirs.generate(ids, **options))
    assert not any("lora" in name for name, _ in merged.named_parameters())


@pytest.mark.slow
def test_a_merged_model_is_served_by_the_native_step(plain):
    loaded = load_model(parse_spec("pocket"), device="cpu", lora=str(plain))
    runner = TorchRunner(loaded.model, num_slots=2, max_length=64)
    assert runner.kind == "native"
    runner.close()


@pytest.mark.slow
def test_an_engine_with_an_adapter_answers_as_peft_does(plain):
    model = Model(make_engine(parse_spec("pocket"), Settings(), lora=str(plain), device="cpu"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    theirs = by_peft(plain)
    try:
        for question in QUESTIONS:
            expected = tokenizer.decode(greedy(theirs, tokenizer, question), skip_special_tokens=True)
            assert model.ask(question, max_tokens=24, temperature=0) == expected
        assert expected != tokenizer.decode(greedy(pocket(), tokenizer, QUESTIONS[-1]), skip_special_tokens=True)
        assert model.name == "pocket"
    finally:
        model.close()


@pytest.mark.slow
def test_an_adapter_in_half_precision_on_a_bfloat16_model_is_close_to_peft(tmp_path):
    folder = save_adapter(tmp_path / "lora", pocket(torch.bfloat16), strength=0.1, target_modules=ALL_LINEAR)
    loaded = load_model(parse_spec("pocket"), device="cpu", dtype="bfloat16", lora=str(folder))
    assert loaded.dtype == "bfloat16"
    ids = torch.arange(60)[None]
    with torch.inference_mode():
        mine, theirs = loaded.model(ids).logits, by_peft(folder, pocket(torch.bfloat16))(ids).logits
    assert (mine - theirs).abs().max() < 0.1 * theirs.abs().max()


@pytest.fixture
def grown(tmp_path):
    """An adapter with five tokens more than fit the embedding, and a tokenizer of its own."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.add_tokens([f"<new {i}>" for i in range(5)])
    base = pocket()
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    folder = save_adapter(
        tmp_path / "grown", base, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_embedding_grows_to_the_adapters_tokenizer(grown, caplog):
    caplog.set_level("INFO", "llmapi_kit")
    loaded = load_model(parse_spec("pocket"), device="cpu", lora=str(grown))
    assert len(loaded.tokenizer) == 3077
    assert loaded.model.get_input_embeddings().weight.shape[0] == 3077
    assert "3,077 rows now, not 3,072" in caplog.text
    assert "The adapter brings the rows" in caplog.text
    base = pocket()
    base.resize_token_embeddings(3077, mean_resizing=False)
    theirs = by_peft(grown, base)
    ids = torch.tensor([[3076, 5, 3072, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, theirs(ids).logits, atol=2e-3, rtol=2e-3)
    runner = TorchRunner(loaded.model, num_slots=1, max_length=64)
    assert (runner.kind, runner.vocab_size) == ("native", 3077)
    runner.close()


@pytest.mark.slow
def test_a_named_tokenizer_goes_before_the_adapters(grown):
    larger = transformers.AutoTokenizer.from_pretrained(grown)
    larger.add_tokens(["<one more>"])
    larger.save_pretrained(grown.parent / "larger")
    with pytest.raises(ModelLoadError, match=r"3,078 tokens and the adapter's embedding 3,077 rows"):
        load_model(parse_spec("pocket"), device="cpu", lora=str(grown), tokenizer=str(grown.parent / "larger"))
    smaller = load_model(parse_spec("pocket"), device="cpu", lora=str(grown), tokenizer="pocket")
    assert len(smaller.tokenizer) == 3072


@pytest.mark.slow
def test_tokens_that_nothing_trained_get_rows_and_a_warning(tmp_path, caplog):
    tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_model(parse_spec("pocket"), device="cpu", tokenizer=str(tmp_path / "tokenizer"))
    assert loaded.model.get_input_embeddings().weight.shape[0] == 3073
    assert "Nothing trained the new rows" in caplog.text
    again = load_model(parse_spec("pocket"), device="cpu", tokenizer=str(tmp_path / "tokenizer"))
    assert torch.equal(loaded.model.get_output_embeddings().weight, again.model.get_output_embeddings().weight)
    plain = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
    assert greedy(loaded.model, loaded.tokenizer, QUESTIONS[0]) == greedy(pocket(), plain, QUESTIONS[0])


def test_a_smaller_tokenizer_leaves_the_embedding_alone():
    model = pocket()
    fit_embeddings(model, 100, 0)
    assert model.get_input_embeddings().weight.shape[0] == 3072


def test_an_adapter_stays_beside_weights_in_8_bits(tmp_path):
    """Those can't take it in without losing it."""
    small = save_adapter(tmp_path / "lora", tiny(), target_modules=["q_proj", "down_proj"])
    model, ids = tiny(), torch.arange(40)[None]
    kept = apply_adapter(tiny(), find_adapter(str(small)), is_merged=False)
    merged = apply_adapter(tiny(), find_adapter(str(small)))
    with torch.inference_mode():
        torch.testing.assert_close(kept(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)
        assert (kept(ids).logits - model(ids).logits).abs().max() > 1e-3
    assert type(kept) is type(model)
    assert any("lora" in name for name, _ in kept.named_parameters())


@pytest.mark.parametrize("is_tied", [False, True])
def test_tied_embeddings_come_apart_unless_the_adapter_ties_them(is_tied, tmp_path):
    base = tiny(tie_word_embeddings=True)
    options = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": is_tied}
    folder = save_adapter(tmp_path / "lora", copy.deepcopy(base), target_modules=["q_proj"], **options)
    merged = apply_adapter(copy.deepcopy(base), find_adapter(str(folder)))
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        expected = by_peft(folder, copy.deepcopy(base))(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert merged.config.tie_word_embeddings is is_tied


def test_memory_is_counted_with_adapter_and_rows_before_anything_is_loaded(plain, grown, monkeypatch):
    size = (plain / "adapter_model.safetensors").stat().st_size
    alone = check_folder(POCKET_DIR, "cpu")
    assert check_folder(POCKET_DIR, "cpu", added_bytes=size).weights_bytes == alone.weights_bytes + size
    assert check_folder(POCKET_DIR, "cpu", num_rows=3073).weights_bytes == alone.weights_bytes + 256 * 2
    as_float32 = check_folder(POCKET_DIR, "cpu", dtype="float32")
    assert as_float32.weights_bytes == 2 * alone.weights_bytes
    needed = as_float32.weights_bytes + as_float32.kv_bytes_per_token * fit.MIN_LENGTH
    monkeypatch.setattr(fit, "free_memory", lambda device: needed + 1000)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(ModelLoadError, match="does not fit"):
        load_model(parse_spec("pocket"), device="cpu", lora=str(plain))
