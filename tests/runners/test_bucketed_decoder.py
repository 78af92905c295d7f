from __future__ import annotations

import contextlib
import functools
import logging
import types

import pytest
import torch

from llmapi_kit.runners import bucketed_decoder
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.bucketed_decoder import BucketedDecoder, bucket_sizes
from llmapi_kit.runners.torch_runner import TorchRunner

from .conftest import TINY, VOCAB, make_tiny

FAMILIES = sorted(set(TINY) - {"gpt2"})
NUM_SLOTS = 5
_compile = torch.compile  # before it is replaced


def make_pair(family, **options):
    """A runner, and one with the same weights whose decodes are bucketed."""
    plain = TorchRunner(make_tiny(family), num_slots=NUM_SLOTS, max_length=300, native=False)
    other = TorchRunner(make_tiny(family), num_slots=NUM_SLOTS, max_length=300, native=False, is_compiled=True)
    other._bucketed = BucketedDecoder(other._lean, other._memory, num_slots=NUM_SLOTS, **options)
    return plain, other


def compare(plain, other, slots=(3, 0, 2), length=70):
    """Prefill some slots, then decode them in turns, all of them and some."""
    generator = torch.Generator().manual_seed(0)
    done = {}
    for slot in slots:
        ids = torch.randint(3, VOCAB, (length // (slot + 1),), generator=generator).tolist()
        for runner in (plain, other):
            runner.step([StepItem(slot, 0, ids, True)])
        done[slot] = len(ids)
    for used in filter(None, (slots, slots[:1], slots[1:], slots[::-1])):
        items = [StepItem(slot, done[slot], [7 + slot], True) for slot in used]
        expected, got = plain.step(items), other.step(items)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
        for slot in used:
            done[slot] += 1


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.mark.parametrize("family", FAMILIES)
def test_idle_rows_change_nothing(family):
    compare(*make_pair(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_paged_attention_is_asked_for_each_slots_own_past(family, monkeypatch):
    """The arguments are what torch documents; here a plain loop stands for the kernel, which needs a GPU."""

    def varlen(query, key, value, starts, key_starts, max_q, max_k, *, scale, window_size, enable_gqa, **paged):
        assert key_starts is starts  # flash attention refuses one without the other
        assert max_q == 1
        assert max_k == key.shape[1]
        assert key.shape[1] % 256 == 0
        assert starts.dtype == paged["seqused_k"].dtype == paged["block_table"].dtype == torch.int32
        assert window_size == (-1, -1) or window_size[0] >= 0 == window_size[1]
        rows = []
        for row, (count, pages) in enumerate(zip(paged["seqused_k"], paged["block_table"], strict=True)):
            first = max(0, count - 1 - window_size[0]) if window_size[0] >= 0 else 0
            past = [each[pages[0], first:count].transpose(0, 1) for each in (key, value)]
            one = query[starts[row] : starts[row + 1]].transpose(0, 1)
            rows.append(
                torch.nn.functional.scaled_dot_product_attention(one, *past, scale=scale, enable_gqa=enable_gqa)
            )
        return torch.cat(rows, 1).transpose(0, 1)

    monkeypatch.setattr(bucketed_decoder, "varlen_attention", lambda *asked: varlen)
    plain, other = make_pair(family)
    assert other._bucketed.attention == "varlen"
    compare(plain, other)


def test_a_recorded_step_is_replayed_with_new_rows_and_recorded_once_a_shape(monkeypatch):
    """A graph reads and writes the same memory each time; here its replay computes into it."""
    recorded = []

    def record(self, static, length):
        recorded.append((static.shape[1], length))
        logits = self._forward(static, length)

        graph = types.SimpleNamespace(replay=lambda: logits.copy_(self._forward(static, length)))
        return graph, logits

    monkeypatch.setattr(BucketedDecoder, "_record", record)
    compare(*make_pair("llama", is_recorded=True), slots=(3, 0, 2), length=70)
    compare(*make_pair("llama", is_recorded=True), slots=(0,), length=250)
    assert recorded == [(4, 128), (4, 64), (1, 256)]


@pytest.mark.slow
def test_one_program_serves_all_sizes_and_lengths():
    """Compiled without code generation: what is tested is that no request has to wait for a compilation."""
    programs = []

    def backend(program, example):
        programs.append(program)
        return program.forward

    plain, other = make_pair("llama", compiler=functools.partial(_compile, backend=backend, dynamic=True))
    assert len(programs) == 2  # one row is a program of its own
    compare(plain, other)
    compare(plain, other, slots=(1,), length=290)
    assert len(programs) == 2


def test_a_failing_compiler_is_named_in_the_log_and_steps_run_without_it(caplog):
    def fail(function):
        def compiled(*args):
            raise RuntimeError("no C++ compiler\nand a long trace")

        return compiled

    with caplog.at_level(logging.WARNING):
        plain, other = make_pair("llama", compiler=fail)
    assert "RuntimeError: no C++ compiler" in caplog.text
    assert "long trace" not in caplog.text
    compare(plain, other)


def test_sizes_double_up_to_the_number_of_slots():
    assert bucket_sizes(1) == [1]
    assert bucket_sizes(2) == [1, 2]
    assert bucket_sizes(6) == [1, 2, 4, 6]
    assert bucket_sizes(8) == [1, 2, 4, 8]


def test_only_plain_decoding_is_bucketed():
    decode = StepItem(0, 3, [1], True)
    assert BucketedDecoder.can_run([decode])
    assert not BucketedDecoder.can_run([decode, StepItem(1, 0, [1, 2], True)])
    assert not BucketedDecoder.can_run([StepItem(0, 3, [1], False)])
    assert not BucketedDecoder.can_run([StepItem(0, 3, [1], True, wants_mean=True)])


def test_cards_types_and_heads_without_paged_attention_use_sdpa(monkeypatch):
    card = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # a T4
    assert bucketed_decoder.varlen_attention(card, torch.float16, 64) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert bucketed_decoder.varlen_attention(card, torch.float16, 64) is not None
    assert bucketed_decoder.varlen_attention(card, torch.float32, 64) is None
    assert bucketed_decoder.varlen_attention(card, torch.float16, 20) is None
    assert bucketed_decoder.varlen_attention(card, torch.float16, 264) is None
    assert bucketed_decoder.varlen_attention(torch.device("cpu"), torch.bfloat16, 64) is None


def test_where_paged_attention_fails_decoding_goes_through_sdpa(monkeypatch, caplog):
    def fail(*args, **options):
        raise RuntimeError("not on this card")

    monkeypatch.setattr(bucketed_decoder, "varlen_attention", lambda *asked: fail)
    runner = TorchRunner(make_tiny("llama"), num_slots=2, max_length=32, is_compiled=True)
    assert runner._bucketed.attention == "sdpa"
    assert "not on this card" in caplog.text
    plain = TorchRunner(make_tiny("llama"), num_slots=2, max_length=32, native=False)
    compare(plain, runner, slots=(1, 0), length=20)


class FakeCuda:
    """What recording asks of `torch.cuda`, in the order in which it is asked. What is recorded runs at once."""

    def __init__(self, monkeypatch):
        self.calls = []
        for name in ("Stream", "CUDAGraph", "current_stream", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def Stream(self, device):  # noqa: N802 - torch's name
        self.calls.append("new stream")
        return types.SimpleNamespace(wait_stream=lambda other: None)

    def CUDAGraph(self):  # noqa: N802 - torch's name
        return types.SimpleNamespace(replay=lambda: self.calls.append("replay"), pool=lambda: "the pool")

    def current_stream(self, device):
        return types.SimpleNamespace(wait_stream=lambda other: None)

    @contextlib.contextmanager
    def stream(self, stream):
        self.calls.append("enter stream")
        yield
        self.calls.append("leave stream")

    @contextlib.contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        self.calls.append(f"record into {pool}, {capture_error_mode}")
        yield


def test_graphs_are_recorded_on_one_stream_into_shared_memory_after_a_first_run(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    bucketed_decoder._recording_stream.cache_clear()
    _, other = make_pair("llama", is_recorded=True)
    forward = other._bucketed._forward
    other._bucketed._forward = lambda *args: (cuda.calls.append("forward"), forward(*args))[1]
    for slot in (0, 3):
        other.step([StepItem(slot, 0, [5, 6], False)])
        other.step([StepItem(slot, 2, [7], True)])
    bucketed_decoder._recording_stream.cache_clear()
    recording = ["enter stream", "forward", "record into {}, thread_local", "forward", "leave stream", "replay"]
    expected = ["new stream", *recording, *recording]
    pools = iter(("None", "the pool"))
    assert cuda.calls == [call.format(next(pools)) if "{}" in call else call for call in expected]


def test_where_fixed_shapes_compute_something_else_the_model_is_served_without_them(monkeypatch, caplog):
    monkeypatch.setattr(BucketedDecoder, "step", lambda self, items: torch.full((len(items), VOCAB), 5.0))
    model = make_tiny("llama")
    step = [StepItem(0, 0, [5], True)]
    expected = TorchRunner(make_tiny("llama"), num_slots=2, max_length=32, native=False).step(step)
    runner = TorchRunner(model, num_slots=2, max_length=32, is_compiled=True)
    torch.testing.assert_close(runner.step(step), expected)
    assert "neither compiled nor recorded" in caplog.text
