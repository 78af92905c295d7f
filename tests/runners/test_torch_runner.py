from __future__ import annotations

import copy

import pytest
import torch
import transformers

from llmapi_kit.errors import ModelTooLargeError, UnsupportedModelError
from llmapi_kit.runners import slot_attention, torch_runner
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.lean_decoder import LeanDecoder
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.torch_runner import TorchRunner

from .conftest import FORMS, SHAPE, TINY, VOCAB, make_tiny


def named(form):
    return next(name for name, options in FORMS.items() if options == form)


def prompt_of(length, seed):
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def last_logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, -1]


@pytest.mark.slow
def test_mixed_steps_give_the_models_own_logits(tiny_model, form):
    """Chunks and decodes of four slots in one step, each against a plain forward pass of its whole sequence."""
    sequences = [prompt_of(length, seed) for seed, length in enumerate((40, 9, 23, 3))]
    expected = [[last_logits(tiny_model, ids[:n]) for n in range(1, len(ids) + 1)] for ids in sequences]
    runner = TorchRunner(tiny_model, num_slots=6, max_length=64, **form)
    slots = [4, 0, 5, 2]
    done = [0, 0, 0, 0]
    schedule = [(13, 1, 4, 1), (1, 1, 1, 1), (20, 6, 1, 1), (1, 1, 16, 0), (5, 0, 1, 0)]
    for sizes in schedule:
        items = [
            StepItem(slots[i], done[i], sequences[i][done[i] : done[i] + size], True)
            for i, size in enumerate(sizes)
            if size
        ]
        logits = runner.step(items)
        active = [i for i, size in enumerate(sizes) if size]
        for i, size in enumerate(sizes):
            done[i] += size
        for row, i in zip(logits, active, strict=True):
            torch.testing.assert_close(row, expected[i][done[i] - 1], atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_only_wanted_logits_are_returned_in_the_items_order(tiny_model, form):
    a, b, c = prompt_of(5, 0), prompt_of(1, 1), prompt_of(7, 2)
    expected = last_logits(tiny_model, c), last_logits(tiny_model, b)
    runner = TorchRunner(tiny_model, num_slots=3, max_length=16, **form)
    logits = runner.step([StepItem(2, 0, c, True), StepItem(1, 0, a, False), StepItem(0, 0, b, True)])
    assert logits.shape == (2, VOCAB)
    for row, wanted in zip(logits, expected, strict=True):
        torch.testing.assert_close(row, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_repeating_a_step_changes_nothing(tiny_model, form):
    ids = prompt_of(12, 3)
    runner = TorchRunner(tiny_model, num_slots=2, max_length=16, **form)
    runner.step([StepItem(0, 0, ids[:8], False)])
    once = runner.step([StepItem(0, 8, ids[8:], True)])
    again = runner.step([StepItem(0, 8, ids[8:], True)])
    assert torch.equal(once, again)


@pytest.mark.slow
def test_copied_prefix_continues_like_the_original(tiny_model, form):
    ids = prompt_of(20, 4)
    expected = last_logits(tiny_model, ids)
    runner = TorchRunner(tiny_model, num_slots=3, max_length=32, **form)
    runner.step([StepItem(0, 0, ids[:15], False)])
    runner.copy_prefix(0, 2, 11)
    logits = runner.step([StepItem(2, 11, ids[11:], True)])
    torch.testing.assert_close(logits[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_used_slot_is_as_good_as_new(tiny_model, form):
    ids = prompt_of(6, 5)
    expected = last_logits(tiny_model, ids)
    runner = TorchRunner(tiny_model, num_slots=1, max_length=32, **form)
    runner.step([StepItem(0, 0, prompt_of(30, 6), True)])
    runner.free(0)
    torch.testing.assert_close(runner.step([StepItem(0, 0, ids, True)])[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_mean_state_is_the_normalised_mean_of_the_last_hidden_states_in_chunks_and_repeated(tiny_model, form):
    sequences = [prompt_of(length, seed) for seed, length in enumerate((1, 4, 30))]
    with torch.inference_mode():
        means = [tiny_model.base_model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in sequences]
    runner = TorchRunner(tiny_model, num_slots=3, max_length=32, **form)
    runner.step([StepItem(2, 0, prompt_of(9, 9), False, wants_mean=True)])  # what stood there before
    for size in (30, 7):
        for slot, ids in enumerate(sequences):
            for start in range(0, len(ids), size):
                for _ in range(2):  # a step that is repeated must not count twice
                    runner.step([StepItem(slot, start, ids[start : start + size], False, wants_mean=True)])
            vector = torch.tensor(runner.mean_state(slot))
            torch.testing.assert_close(vector, means[slot] / means[slot].norm(), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_logits_of_every_token_of_a_chunk_are_those_of_the_whole_prompt(tiny_model, form):
    ids = prompt_of(20, 3)
    with torch.inference_mode():
        expected = tiny_model(torch.tensor([ids])).logits[0]
    runner = TorchRunner(tiny_model, num_slots=2, max_length=32, **form)
    runner.step([StepItem(1, 0, prompt_of(5, 1), False)])
    first = runner.step([StepItem(1, 5, [7], True), StepItem(0, 0, ids[:8], True, wants_every=True)])
    second = runner.step([StepItem(0, 8, ids[8:], True, wants_every=True), StepItem(1, 6, [8], True)])
    torch.testing.assert_close(torch.cat((first[1:], second[:12])), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TINY))
def test_llama_like_families_run_in_c_or_written_out_and_others_through_their_modules(family, form):
    model = make_tiny(family)
    kind = "modules" if family == "gpt2" else {"bucketed": "lean"}.get(name := named(form), name)
    assert TorchRunner(model, num_slots=2, max_length=32, **form).kind == kind


def test_a_model_that_looks_like_a_llama_but_computes_otherwise_is_not_served(monkeypatch):
    model = make_tiny("llama")
    monkeypatch.setattr(LeanDecoder, "logits", lambda self, states: states @ self._head.t() * 1.1)
    with pytest.raises(UnsupportedModelError, match="other logits"):
        TorchRunner(model, num_slots=2, max_length=32, native=False)


def test_fusing_weights_keeps_them_in_memory_once():
    model = make_tiny("llama")
    before = sum(p.nbytes for p in model.parameters())
    runner = TorchRunner(model, num_slots=1, max_length=32, native=False)
    fused = sum(layer.qkv.nbytes + layer.gate_up.nbytes for layer in runner._lean._layers)
    assert sum(p.nbytes for p in model.parameters()) + fused == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shorter_numbers_pass_the_self_check(form, dtype):
    TorchRunner(make_tiny("llama").to(dtype), num_slots=2, max_length=32, **form)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            lambda: transformers.MambaForCausalLM(
                transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
            ),
            "AttentionInterface|attention",
        ),
        (
            lambda: transformers.BloomForCausalLM(
                transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)
            ),
            "attention",
        ),
    ],
    ids=["mamba", "bloom"],
)
def test_models_that_can_not_share_a_step_are_refused_with_the_reason_and_stay_as_they_were(model, reason):
    torch.manual_seed(0)
    made = model().eval()
    attention, expected = made.config._attn_implementation, last_logits(made, [3, 4, 5])
    with pytest.raises(UnsupportedModelError, match=reason):
        TorchRunner(made, num_slots=2, max_length=32)
    assert made.config._attn_implementation == attention
    assert torch.equal(last_logits(made, [3, 4, 5]), expected)


def test_a_model_that_gives_all_logits_whatever_it_is_asked_for_gives_the_wanted_ones(monkeypatch):
    model = make_tiny("gpt2")
    forward = type(model).forward

    def of_all(self, input_ids=None, position_ids=None, use_cache=None, **options):
        return forward(
            self, input_ids, position_ids=position_ids, use_cache=use_cache, **{**options, "logits_to_keep": 0}
        )

    ids = prompt_of(9, 1)
    expected = last_logits(model, ids)
    monkeypatch.setattr(type(model), "forward", of_all)
    runner = TorchRunner(model, num_slots=2, max_length=32)
    torch.testing.assert_close(runner.step([StepItem(0, 0, ids, True)])[0], expected, atol=2e-5, rtol=1e-4)


def test_a_window_that_is_not_honoured_shows_in_the_check_however_long_it_is(monkeypatch, form):
    model = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            **{**SHAPE, "max_position_embeddings": 4096},
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            sliding_window=2000,
        )
    ).eval()
    assert TorchRunner(copy.deepcopy(model), num_slots=2, max_length=4096, **form).kind
    monkeypatch.setattr(NativeDecoder, "windows", property(lambda self: [0, 0], lambda self, windows: None))
    attend = slot_attention.attend
    monkeypatch.setattr(torch_runner, "attend", lambda *a: attend(*a[:6], 0, *a[7:]))
    monkeypatch.setattr(slot_attention, "attend", lambda *a: attend(*a[:6], 0, *a[7:]))
    with pytest.raises(UnsupportedModelError, match="other logits"):
        TorchRunner(model, num_slots=2, max_length=4096, **form)
    # No sequence leaves it where slots are shorter
    assert TorchRunner(make_tiny("mistral with a sliding window"), num_slots=1, max_length=8, **form).kind


def test_a_model_whose_attention_goes_wrong_is_refused(monkeypatch):
    model = make_tiny("llama")
    monkeypatch.setattr(
        "llmapi_kit.runners.step_layout.DecodeGroup.mask",
        lambda self, window, dtype: torch.zeros(self.end - self.start, 1, 1, self.length),
    )
    monkeypatch.setattr("llmapi_kit.runners.slot_attention._chunk", lambda query, *rest: query)
    with pytest.raises(UnsupportedModelError, match="other logits"):
        TorchRunner(model, num_slots=2, max_length=32, native=False)


@pytest.mark.parametrize("name", ["native", "lean", "modules"])
def test_bfloat16_weights_in_float32_give_the_logits_of_widened_ones(name):
    ids = prompt_of(20, 3)
    expected = last_logits(make_tiny("qwen2").bfloat16().float(), ids)
    runner = TorchRunner(make_tiny("qwen2").bfloat16(), num_slots=2, max_length=32, dtype=torch.float32, **FORMS[name])
    assert runner.kind == name
    torch.testing.assert_close(runner.step([StepItem(1, 0, ids, True)])[0], expected, atol=2e-5, rtol=1e-4)


def test_weights_that_can_not_be_widened_for_lack_of_memory_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr("llmapi_kit.runners.widening.free_memory", lambda device: 1000)
    with pytest.raises(ModelTooLargeError, match=r"more for the weights.*dtype='bfloat16'.*C compiler"):
        TorchRunner(make_tiny("llama").bfloat16(), num_slots=2, max_length=32, dtype=torch.float32, native=False)
