"""The contract of runners on llama.cpp: its logits are those of a plain forward pass of each sequence."""

from __future__ import annotations

import _ctypes
import random
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from llmapi_kit.errors import ConfigError, ModelLoadError, UnsupportedModelError
from llmapi_kit.runners import libllama
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.llama_context import ContextOptions
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_steps import LlamaSteps

from .conftest import VOCAB
from .llama_files import run, with_wide_heads, write_tiny

pytestmark = pytest.mark.slow

EXACT = ContextOptions(kv_cache_dtype="f32", flash_attn=False)  # flash attention computes in float16
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
FAMILIES = ("llama", "qwen2", "qwen3")


def prompt_of(length, seed):
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    """A file, and the model of transformers that it was made from."""
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    return path, write_tiny(path, request.param)


@pytest.fixture
def make_runner(tiny):
    """Runners of the file, closed in the end."""
    made = []

    def make(num_slots=4, max_length=64, options=EXACT, path=tiny[0]):
        made.append(run(path, num_slots=num_slots, max_length=max_length, options=options))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
def logits_of(tiny):
    """Logits (len, vocab) of a plain forward pass."""

    def compute(ids):
        with torch.inference_mode():
            return tiny[1](input_ids=torch.tensor([ids])).logits[0]

    return compute


def test_the_thread_that_makes_it_starts_no_others_but_the_one_that_steps_does(tiny, monkeypatch):
    """Or there are more threads than cores, and they sleep at every barrier."""
    monkeypatch.setattr("llmapi_kit.runners.llama_steps.SMALL_MODEL_BYTES", 0)
    count = psutil.Process().num_threads
    made_by, stepped_by = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with made_by, stepped_by:
        num_before = made_by.submit(count).result()
        model, options = LlamaModel(tiny[0]), {"num_threads": 2, "adapts_threads": True}
        steps = made_by.submit(LlamaSteps, model, num_slots=1, max_length=64, **options).result()
        assert count() == num_before
        num_before = stepped_by.submit(count).result()
        stepped_by.submit(steps.step, [StepItem(0, 0, [5, 6], True)]).result()
        assert count() == num_before + 1
        stepped_by.submit(steps.close).result()


@pytest.mark.parametrize(("small_bytes", "expected"), [(0, [2, 2, 1, 1]), (1e9, [1, 1])])
def test_prompts_of_a_large_model_have_threads_that_a_row_does_not(tiny, monkeypatch, small_bytes, expected):
    monkeypatch.setattr("llmapi_kit.runners.llama_steps.SMALL_MODEL_BYTES", small_bytes)
    steps = LlamaSteps(LlamaModel(tiny[0]), num_slots=1, max_length=64, num_threads=2, adapts_threads=True)
    used = []
    monkeypatch.setattr(steps, "_set_num_threads", used.append)
    steps.step([StepItem(0, 0, prompt_of(20, 1), True)])
    steps.step([StepItem(0, 20, [5], True)])
    steps.close()
    assert used == expected


def test_mixed_steps_give_the_models_own_logits(make_runner, logits_of):
    """Chunks and decodes of four slots in one step, in an order that is not the slots'."""
    sequences = [prompt_of(length, seed) for seed, length in enumerate((40, 9, 23, 3))]
    expected = [logits_of(ids) for ids in sequences]
    runner = make_runner(num_slots=6)
    slots, done = [4, 0, 5, 2], [0, 0, 0, 0]
    for sizes in [(13, 1, 4, 1), (1, 1, 1, 1), (20, 6, 1, 1), (1, 1, 16, 0), (5, 0, 1, 0)]:
        active = [i for i, size in enumerate(sizes) if size]
        items = [StepItem(slots[i], done[i], sequences[i][done[i] : done[i] + sizes[i]], True) for i in active]
        logits = runner.step(items)
        for row, i in zip(logits, active, strict=True):
            done[i] += sizes[i]
            torch.testing.assert_close(row, expected[i][done[i] - 1], **CLOSE)


def test_only_wanted_logits_are_returned_in_the_items_order(make_runner, logits_of):
    a, b, c = prompt_of(5, 0), prompt_of(1, 1), prompt_of(7, 2)
    logits = make_runner().step([StepItem(2, 0, c, True), StepItem(1, 0, a, False), StepItem(0, 0, b, True)])
    torch.testing.assert_close(logits, torch.stack((logits_of(c)[-1], logits_of(b)[-1])), **CLOSE)
    assert make_runner().step([StepItem(0, 0, a, False)]).shape == (0, VOCAB)


def test_a_batch_of_any_mixture_gives_what_the_library_gives_for_each_alone(make_runner):
    """Random prompts, chunks, prefix hits, forks, scores and gaps between slots, against one sequence at a time."""
    rng = random.Random(5)
    runner, alone = make_runner(num_slots=8), make_runner(num_slots=1)
    held = {}
    for _ in range(60):
        items = []
        for slot in rng.sample(range(8), rng.randrange(1, 9)):
            tokens = held.get(slot, [])
            if rng.random() < 0.25 or len(tokens) > 50:
                tokens = tokens[: rng.randrange(len(tokens) + 1)]
            elif held and rng.random() < 0.25:
                source = rng.choice([each for each in held if each not in {item.slot for item in items}] or [slot])
                if source != slot and held.get(source):
                    length = rng.randrange(1, len(held[source]) + 1)
                    runner.copy_prefix(source, slot, length)
                    tokens = held[source][:length]
            new = [rng.randrange(3, VOCAB) for _ in range(rng.choice((1, 1, 1, 5, 13)))]
            items.append(StepItem(slot, len(tokens), new, rng.random() < 0.8, rng.random() < 0.2))
            held[slot] = [*tokens, *new]
        logits = runner.step(items)
        expected = []
        for item in items:
            rows = alone.step([StepItem(0, 0, held[item.slot], True, True)])
            if item.wants_logits:
                expected.append(rows[-len(item.tokens) :].clone() if item.wants_every else rows[-1:].clone())
        torch.testing.assert_close(logits, torch.cat(expected or [logits[:0]]), **CLOSE)


def test_a_step_of_few_rows_gives_the_same_in_a_call_for_each(make_runner, monkeypatch):
    sequences = [prompt_of(5, seed) for seed in range(4)]
    slots = (3, 0, 2, 1)
    logits = []
    for is_split in (False, True):
        monkeypatch.setattr("llmapi_kit.runners.split_choice.SplitChoice.next", lambda _, num, way=is_split: way)
        runner = make_runner()
        runner.step([StepItem(slot, 0, ids[:-1], False) for slot, ids in zip(slots, sequences, strict=True)])
        items = [StepItem(slot, 4, ids[-1:], True) for slot, ids in zip(slots, sequences, strict=True)]
        logits.append(runner.step(items).clone())
    torch.testing.assert_close(*logits, **CLOSE)


def test_repeating_a_step_changes_nothing(make_runner):
    ids, runner = prompt_of(12, 3), make_runner()
    runner.step([StepItem(0, 0, ids[:8], False)])
    once = runner.step([StepItem(0, 8, ids[8:], True)]).clone()
    assert torch.equal(once, runner.step([StepItem(0, 8, ids[8:], True)]))


def test_a_used_slot_is_as_good_as_new(make_runner, logits_of):
    ids, runner = prompt_of(6, 5), make_runner(num_slots=1)
    runner.step([StepItem(0, 0, prompt_of(30, 6), True)])
    runner.free(0)
    torch.testing.assert_close(runner.step([StepItem(0, 0, ids, True)])[0], logits_of(ids)[-1], **CLOSE)


def test_a_slot_holds_max_length_tokens(make_runner, logits_of):
    ids = prompt_of(64, 8)
    runner = make_runner(num_slots=2)
    runner.step([StepItem(1, 0, ids, False), StepItem(0, 0, ids[:63], False)])
    torch.testing.assert_close(runner.step([StepItem(0, 63, ids[63:], True)])[0], logits_of(ids)[-1], **CLOSE)


def test_logits_of_more_tokens_than_a_call_gives_rows_are_those_of_the_whole_prompt(make_runner, logits_of):
    ids = prompt_of(150, 3)
    runner = make_runner(num_slots=3, max_length=200)
    runner.step([StepItem(1, 0, prompt_of(5, 1), False)])
    logits = runner.step(
        [StepItem(1, 5, [7], True), StepItem(0, 0, ids, True, wants_every=True), StepItem(2, 0, ids[:9], True)]
    )
    torch.testing.assert_close(logits[1:151], logits_of(ids), **CLOSE)
    torch.testing.assert_close(logits[0], logits_of([*prompt_of(5, 1), 7])[-1], **CLOSE)
    torch.testing.assert_close(logits[151], logits_of(ids[:9])[-1], **CLOSE)


def test_a_step_may_have_more_tokens_than_a_call(make_runner, logits_of):
    ids = prompt_of(500, 2)
    logits = make_runner(num_slots=6, max_length=512).step([StepItem(slot, 0, ids, True) for slot in range(6)])
    torch.testing.assert_close(logits, logits_of(ids)[-1].expand(6, -1), **CLOSE)


def test_a_mean_state_is_the_normalised_mean_of_the_last_hidden_states_in_chunks_and_repeated(make_runner, tiny):
    sequences = [prompt_of(length, seed) for seed, length in enumerate((1, 4, 100))]
    with torch.inference_mode():
        means = [tiny[1].base_model(torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in sequences]
    runner = make_runner(max_length=128)
    runner.step([StepItem(2, 0, prompt_of(9, 9), False, wants_mean=True)])  # what stood there before
    for size in (100, 7):
        for start in range(0, 100, size):
            items = [
                StepItem(slot, start, ids[start : start + size], False, wants_mean=True)
                for slot, ids in enumerate(sequences)
                if start < len(ids)
            ]
            for _ in range(2):  # a step that is repeated must not count twice
                runner.step([*items, StepItem(3, 0, [5, 6], True)])
        for slot, mean in enumerate(means):
            vector = torch.tensor(runner.mean_state(slot))
            torch.testing.assert_close(vector, mean / mean.norm(), **CLOSE)


def test_a_step_that_fails_leaves_the_other_slots_as_they_were(make_runner, logits_of):
    ids = prompt_of(20, 4)
    runner = make_runner()
    runner.step([StepItem(0, 0, ids[:15], False)])
    with pytest.raises(RuntimeError, match="could not compute"):
        runner.step([StepItem(0, 15, ids[15:16], True), StepItem(1, 0, [VOCAB + 5], True)])
    torch.testing.assert_close(runner.step([StepItem(0, 15, ids[15:], True)])[0], logits_of(ids)[-1], **CLOSE)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q5_1", "q4_0"])
def test_shorter_keys_and_values_move_the_logits_a_little(dtype, tmp_path):
    ids, path = prompt_of(40, 1), tmp_path / "m.gguf"
    write_tiny(path, with_wide_heads())
    rows = []
    for options in (EXACT, ContextOptions(kv_cache_dtype=dtype)):
        runner = run(path, num_slots=2, max_length=64, options=options)
        rows.append(runner.step([StepItem(1, 0, ids, True)])[0].clone())
        runner.close()
    assert 0 < (rows[1] - rows[0]).abs().max() < 0.3 * rows[0].abs().max()


def test_what_the_library_can_not_do_is_told_in_its_words(make_runner):
    with pytest.raises(UnsupportedModelError, match="block size 32 does not divide"):
        make_runner(options=ContextOptions(kv_cache_dtype="q8_0"))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "m.gguf"
    norm = write_tiny(path).model.layers[0].input_layernorm.weight.numpy()
    path.write_bytes(path.read_bytes().replace(norm.tobytes(), b"\0\0\xc0\x7f" * len(norm), 1))
    with pytest.raises(ModelLoadError, match="not finite"):
        run(path, num_slots=1, max_length=16)


def test_more_slots_than_the_library_has_are_refused(make_runner):
    with pytest.raises(UnsupportedModelError, match="256 requests at once"):
        make_runner(num_slots=257)


def test_another_build_is_named_by_a_variable_and_has_to_be_one_that_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv(libllama.VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(ConfigError, match="which is not a file"):
        libllama.load_libllama()
    (tmp_path / "text.so").write_bytes(b"no library")
    monkeypatch.setenv(libllama.VARIABLE, str(tmp_path / "text.so"))
    with pytest.raises(ConfigError, match="can't be loaded"):
        libllama.load_libllama()
    monkeypatch.setenv(libllama.VARIABLE, _ctypes.__file__)
    with pytest.raises(ConfigError, match="has no function llama_"):
        libllama.load_libllama()


def test_a_library_that_computes_elsewhere_is_waited_for_where_the_gil_is_free(tiny, monkeypatch):
    """The call that gives the logits would wait, too, and keep the GIL."""
    library, called = libllama.load_libllama(), []
    monkeypatch.setattr(library, "llama_supports_gpu_offload", lambda: True)
    for name in ("llama_synchronize", "llama_get_logits"):
        function = getattr(library, name)
        monkeypatch.setattr(library, name, lambda c, name=name, call=function: (called.append(name), call(c))[1])
    steps = LlamaSteps(LlamaModel(tiny[0]), num_slots=1, max_length=64)
    called.clear()
    steps.step([StepItem(0, 0, [5], True)])
    assert called == ["llama_synchronize", "llama_get_logits"]
    assert "llama_synchronize" not in libllama.QUICK
    steps.close()


def test_no_other_thread_takes_the_gil_in_a_call_that_is_over_at_once():
    """Whoever gets a step's tokens took it just before the next step, which then waited until they were sent."""
    library = libllama.load_libllama()
    keeps_gil = {name for name in libllama.FUNCTIONS if type(getattr(library, name))._flags_ & 4}  # of ctypes.PyDLL
    assert keeps_gil == set(libllama.QUICK)


def test_a_library_whose_structures_are_others_is_refused(monkeypatch):
    monkeypatch.setattr(libllama, "CONTEXT_DEFAULTS", {**libllama.CONTEXT_DEFAULTS, "n_batch": 4096})
    with pytest.raises(ConfigError, match=r"ContextParams\.n_batch is 2048 where 4096 is expected"):
        libllama._load(libllama.find_libllama())
