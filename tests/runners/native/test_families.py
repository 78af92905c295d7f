"""What a family of decoders has that a Llama has not is computed in C as transformers computes it, in every place."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional

from llmapi_kit.checkpoints.integer_weights import ROUNDED, IntegerMatrix
from llmapi_kit.checkpoints.low_rank import LowRank
from llmapi_kit.checkpoints.model_decoder import weights_of_model
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.native import decoder, packed_model
from llmapi_kit.runners.native.decoder import NativeDecoder
from llmapi_kit.runners.native.reference import last_logits
from llmapi_kit.runners.native.runner import NativeRunner
from llmapi_kit.runners.self_check import check_prompts
from llmapi_kit.runners.torch_runner import TorchRunner
from llmapi_kit.runners.widening import widened
from tests.runners.native.families import FAMILIES, VOCAB, make_family

pytestmark = pytest.mark.slow

IDS = [(31 * i + 5) % VOCAB for i in range(40)]  # well past the windows
OTHERS = [(17 * i + 3) % VOCAB for i in range(25)]
NUM_NEW = 6


@functools.cache
def own_logits(family):
    """Logits (T, vocab) of a model by itself along its greedy answer to `IDS`, and the ids with the answer."""
    model, ids = make_family(family), list(IDS)
    for _ in range(NUM_NEW):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        ids.append(int(logits[-1].argmax()))
    return logits, ids


def close(got, expected, share=1e-5):
    torch.testing.assert_close(got, expected, atol=share * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers_as_by_itself_alone_and_beside_others(family):
    """In chunks and decodes, beside another slot, and after a prefix that another slot has computed."""
    logits, ids = own_logits(family)
    runner = TorchRunner(make_family(family), num_slots=3, max_length=64)
    assert runner.kind == "native"
    alone = runner.step([StepItem(1, 0, IDS[:33], True, wants_every=True)]).clone()
    beside = [StepItem(0, 0, OTHERS, False), StepItem(1, 33, IDS[33:], True)]
    last = runner.step(beside).clone()
    runner.copy_prefix(1, 2, 30)
    runner.step([StepItem(2, 30, IDS[30:], False)])
    close(torch.cat((alone, last)), logits[[*range(33), 39]])
    for at in range(len(IDS), len(ids) - 1):
        token = [ids[at]]
        got = runner.step([StepItem(0, at - 15, [7], False), *(StepItem(slot, at, token, True) for slot in (1, 2))])
        close(got, logits[at].expand(2, -1))
        assert got.argmax(-1).tolist() == [ids[at + 1]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_what_transformers_computes(family):
    close(last_logits(weights_of_model(make_family(family)), IDS), own_logits(family)[0][39][None])


@pytest.mark.parametrize("family", ["phi3", "gemma2", "qwen2 with experts", "gpt oss"])
@pytest.mark.parametrize("form", ["int4", None])
def test_a_family_computes_with_fewer_bits_what_they_say(family, form):
    model = make_family(family).bfloat16()
    weights = weights_of_model(model)
    if form:
        weights.round_to(ROUNDED[form])
    expected = last_logits(weights, IDS)
    runner = NativeRunner(weights, num_slots=2, max_length=64, dtype=torch.float32, kv_dtype=None)
    runner.step([StepItem(1, 0, IDS[:20], False)])
    close(runner.step([StepItem(1, 20, IDS[20:], True)]), expected, 2e-3)


def test_experts_with_weights_in_bfloat16_are_checked_against_what_float32_chooses(monkeypatch):
    """A model that computed in bfloat16 by itself chose other experts than the step, and was refused as wrong."""
    expected = []
    monkeypatch.setattr(
        "llmapi_kit.runners.torch_runner.check_steps", lambda step, prompts, logits, *_: expected.append(logits)
    )
    model = make_family("mixtral").bfloat16()
    ids = check_prompts(VOCAB, 64, 1)[0]
    with torch.no_grad():
        own = make_family("mixtral").bfloat16().float()(torch.tensor([ids])).logits[:, -1]
    before = [weight.clone() for weight in model.parameters()]
    with widened(model), torch.no_grad():
        close(model(torch.tensor([ids])).logits[:, -1], own)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
    assert TorchRunner(model, num_slots=1, max_length=64, dtype=torch.float32).kind == "native"
    assert expected[0].dtype == torch.float32
    assert TorchRunner(make_family("mixtral").bfloat16(), num_slots=1, max_length=64).kind == "modules"


def test_scores_that_are_no_numbers_choose_each_expert_once():
    """They once chose the first one twice, and with it more rows than there is memory for."""
    weights = weights_of_model(make_family("mixtral"))
    weights.tensors["model.embed_tokens.weight"][5] = torch.nan
    native = NativeDecoder(weights, num_slots=2, max_length=64, num_threads=1)
    logits = native.step([StepItem(0, 0, [5] * 40, True), StepItem(1, 0, IDS, True)])[0]
    assert torch.isnan(logits[0]).all()
    close(logits[1], own_logits("mixtral")[0][39])


def test_threads_share_experts_without_a_difference(monkeypatch):
    monkeypatch.setattr(decoder, "SHARED_FROM", 0)
    monkeypatch.setattr(decoder, "SHARED_PER_PROMPT", 0)
    one, several = (
        NativeDecoder(weights_of_model(make_family("qwen2 with experts")), num_slots=2, max_length=64, num_threads=num)
        for num in (1, 3)
    )
    for step in ([StepItem(0, 0, IDS, True), StepItem(1, 0, OTHERS, True)], [StepItem(1, 25, [9], True)]):
        assert torch.equal(one.step(step)[0], several.step(step)[0])
    for _ in range(300):  # with no logits wanted, threads once read what was asked for after the caller had left
        several.step([StepItem(0, 0, IDS[:3], False)])
    assert torch.equal(one.step(step)[0], several.step(step)[0])
    several.close()


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("granite", "embedding_scale", 1.0),
        ("granite", "residual_multiplier", 1.0),
        ("granite", "logit_scale", 1.0),
        ("gemma2", "attention_cap", 0.0),
        ("gemma2", "logit_cap", 0.0),
        ("gemma2", "activation", 0),
        ("phi4 mini", "rotated", 16),
        ("qwen2 with experts", "renormalises", 1),
        ("qwen2 with experts", "has_shared_gate", 0),
        ("mixtral", "experts_per_token", 1),
        ("gpt oss", "swiglu_limit", 9.0),
        ("gpt oss", "swiglu_alpha", 1.0),
    ],
)
def test_the_check_at_load_finds_a_difference_that_is_left_out(family, field, value, monkeypatch):
    model_of = packed_model._model_of

    def without(*args):
        made = model_of(*args)
        setattr(made, field, value)
        return made

    monkeypatch.setattr(packed_model, "_model_of", without)
    with pytest.raises(UnsupportedModelError, match=r"gives other logits over slots than by itself"):
        NativeRunner(weights_of_model(make_family(family)), num_slots=2, max_length=64, dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "part", "form", "is_decomposed"),
    [
        ("phi3", "self_attn.qkv_proj", None, False),
        ("phi3", "mlp.gate_up_proj", "int4", False),
        ("olmo2", "self_attn.o_proj", None, True),
        ("gemma2", "mlp.down_proj", None, False),
        ("qwen3 with experts", "self_attn.o_proj", "int8", True),
        ("gpt oss", "self_attn.v_proj", None, True),
        ("llama with biases", "mlp.down_proj", None, True),
    ],
)
def test_an_adapter_changes_what_it_would_change_in_the_weights(family, part, form, is_decomposed):
    """Also of a matrix that a checkpoint has fused, and before the norm of what attention and feed-forward give.

    Beside integers it once took inputs for floats that were not, and answers were wrong.
    """
    name = f"model.layers.2.{part}"
    weights, merged = (weights_of_model(make_family(family)) for _ in range(2))
    for each in (weights, merged) if form else ():
        each.round_to(ROUNDED[form])
    for key, matrix in merged.tensors.items():
        if isinstance(matrix, IntegerMatrix):
            merged.tensors[key] = matrix.rows(0, matrix.shape[0]).widened()
    merged.integers = None
    own = merged.tensors[f"{name}.weight"]
    torch.manual_seed(3)
    down, up = torch.randn(3, own.shape[1]) / 8, torch.randn(len(own), 3) / 8
    magnitude = torch.rand(len(own)) + 1 if is_decomposed else None
    changed = own + up @ down
    merged.tensors[f"{name}.weight"] = (
        changed if magnitude is None else magnitude[:, None] * functional.normalize(changed)
    )
    expected = last_logits(merged, IDS)
    native = NativeDecoder(weights, num_slots=2, max_length=64, num_threads=1)
    native.adapters.add(1, {name: LowRank(down, torch.zeros(3), up, magnitude)})
    items = [StepItem(0, 0, IDS, True), StepItem(1, 0, IDS, True, adapter=1)]
    plain, changed = native.step(items)[0].clone()
    close(changed[None], expected, 2e-3 if form else 1e-5)
    assert torch.equal(native.step([StepItem(0, 0, IDS, True, adapter=1)])[0][0], changed)
    assert not torch.allclose(plain, changed, atol=1e-3)


def changed(family, **values):
    model = make_family(family)
    for name, value in values.items():
        setattr(model.config, name, value)
    return model


def test_what_the_step_does_not_know_is_left_to_torch():
    more = make_family("granite")
    more.model.layers[0].mlp.router = torch.nn.Linear(2, 2)
    two_way = make_family("gemma3")
    two_way.model.layers[1].self_attn.is_causal = False
    to_come = {"rope_type": "to come", "rope_theta": 1.0}
    for model, why in {
        more: "its tensor model.layers.0.mlp.gate.weight is not what its family has",
        two_way: "its attention looks both ways",
        changed("gemma2", hidden_activation="relu"): "hidden_activation is 'relu'",
        changed("granite", rope_parameters=to_come): "its rotary embedding is scaled by 'to come'",
        changed("olmoe", clip_qkv=8.0): "clip_qkv cuts off",
        make_family("olmo2").half(): "computes in float32 and bfloat16, and not in float16",
    }.items():
        assert why in NativeDecoder.obstacle(model)
        assert not NativeDecoder.can_run(model)


def test_factors_for_long_texts_are_computed_up_to_where_they_change():
    model = make_family("phi4 mini with factors for long texts")
    assert TorchRunner(model, num_slots=2, max_length=128).kind == "modules"
    model = make_family("phi4 mini with factors for long texts")
    with torch.no_grad():
        model(torch.tensor([[5] * 70]))  # leaves the factors for long texts in place
    assert TorchRunner(model, num_slots=2, max_length=64).kind == "native"
