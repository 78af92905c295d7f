"""A model divided over two processes answers as it does in one, and its processes live and die together."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest
import torch
import transformers

import llmapi_kit as kit
from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.checkpoints.tensor_parallel import Shard, check_divisible
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import ConfigError, EngineUnavailableError, UnsupportedModelError
from llmapi_kit.loading.load_request import resolve
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.loading.parallel_loader import rank_device
from llmapi_kit.loading.placement import Placement, visible
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.testing.events import collect
from llmapi_kit.types import Failed, Finished
from tests.engines.process.test_engine import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="made for Linux and macOS"),
]
VOCAB, NUM_TOKENS = 3072, 16
SHAPE = {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose greedy answers are far from one token again and again, and from ties."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**SHAPE, **HEADS, initializer_range=0.4, eos_token_id=None)
    made = tmp_path_factory.mktemp("divided")
    transformers.Qwen2ForCausalLM(config).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def model(folder):
    options = {"tokenizer": "pocket", "dtype": "float32", "max_slots": 4, "context_length": 200, "step_tokens": 32}
    model = kit.load(folder, tensor_parallel=2, **options)
    yield model
    model.close()


@pytest.fixture(scope="module")
def reference(folder):
    """The greedy tokens after a prompt, by the whole model."""
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(prompt):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            options = {"max_new_tokens": NUM_TOKENS, "do_sample": False}
            return whole.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)[0].tolist()

    return lambda prompt: generate(prompt)[len(prompt) :]


def prompts(number, length=9):
    return [[(37 * i + 101 * number + 5) % (VOCAB - 10) + 5 for i in range(length + 7 * n)] for n in range(number)]


def request(prompt, num_tokens=NUM_TOKENS):
    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True, logprobs=0)
    return GenerationRequest(prompt=prompt, sampling=sampling)


def ask(engine, *asked):
    """Events of requests that run together."""

    async def all_of_them():
        answers = [collect(engine.generate(request(prompt))) for prompt in asked]
        return await asyncio.gather(*answers, return_exceptions=True)

    return asyncio.run(all_of_them())


def tokens(events):
    return [each.token_id for event in events for each in getattr(event, "logprobs", ())]


def test_greedy_answers_are_those_of_the_whole_model_alone_together_and_after_a_known_beginning(model, reference):
    asked = prompts(4, 40)
    expected = [reference(prompt) for prompt in asked]
    assert len({tuple(each) for each in expected}) == 4
    assert len(set(expected[0])) > 4
    assert tokens(ask(model.engine, asked[0])[0]) == expected[0]
    assert [tokens(events) for events in ask(model.engine, *asked)] == expected
    longer = [*asked[1], *expected[1], 7]
    (events,) = ask(model.engine, longer)
    assert tokens(events) == reference(longer)
    assert events[-1].num_cached_tokens > len(asked[1])


def test_when_a_rank_dies_each_request_ends_in_one_error_and_all_of_them_come_back(model, reference):
    (first,) = (child for child in psutil.Process().children() if child.pid == model.engine.pid)
    (rank,) = first.children()

    begun = []

    async def follow(prompt):
        events = []
        async for event in model.engine.generate(request(prompt, 150)):
            events.append(event)
            if len(events) == 3:
                begun.append(prompt)
                if len(begun) == 3:
                    rank.kill()
        return events

    async def follow_all():
        return await asyncio.gather(*(follow(prompt) for prompt in prompts(3)))

    for events in asyncio.run(follow_all()):
        assert [type(each) for each in events if isinstance(each, Failed | Finished)] == [Failed]
        assert isinstance(events[-1].error, EngineUnavailableError)
        assert "rank 1 of 2 ended: SIGKILL" in events[-1].error.message
    wait_until(lambda: model.engine.readiness().ready)
    prompt = prompts(1)[0]
    assert tokens(ask(model.engine, prompt)[0]) == reference(prompt)


def test_closing_ends_every_process_also_one_that_is_stopped(model):
    (first,) = (child for child in psutil.Process().children() if child.pid == model.engine.pid)
    processes = [first, *first.children()]
    assert len(processes) == 2
    os.kill(processes[1].pid, signal.SIGSTOP)
    model.close()
    assert psutil.wait_procs(processes, timeout=60)[1] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel is 0; it must be a number from 1 to 64"),
        ({"tensor_parallel": True}, "tensor_parallel is True"),
        ({"tensor_parallel": 2, "process": False}, "process=False does not go with tensor_parallel"),
        ({"tensor_parallel": 2, "device_map": "auto"}, "both divide the model"),
        ({"tensor_parallel": 2, "draft": str(POCKET_DIR)}, "tensor_parallel does not go with a draft model"),
        ({"tensor_parallel": 2, "quantize": "int8"}, "tensor_parallel does not go with quantize"),
        ({"tensor_parallel": 2, "lora": {"a": "owner/name"}}, "tensor_parallel does not go with lora"),
        ({"tensor_parallel": 2, "devices": [0, 1, 2]}, "devices names 3, and tensor_parallel=2 takes 2 for each"),
        ({"tensor_parallel": 2, "devices": [0, 0]}, "takes different GPUs"),
        ({"device_map": "everywhere"}, "device_map is 'everywhere'; it must be auto"),
        ({"device_map": {"": "disk"}}, "device_map has '': 'disk'"),
        (
            {"device_map": {"model.layers.0": "cpu", "model.layers.1": "meta"}},
            "device_map has 'model.layers.1': 'meta'",
        ),
        ({"device_map": "auto", "device": "cpu"}, "device and device_map both say where"),
        ({"device_map": "auto", "kv_cache_dtype": "int8"}, "device_map does not go with kv_cache_dtype"),
    ],
)
def test_what_can_not_be_is_told_before_anything_is_loaded(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        resolve(folder, given={"tokenizer": "pocket", **options})


def test_what_has_nothing_to_divide_does_not_take_it(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for name in ("mock", str(tmp_path / "m.gguf")):
        with pytest.raises(ConfigError, match="no argument 'tensor_parallel'"):
            resolve(name, given={"tensor_parallel": 2})
    with pytest.raises(ConfigError, match="not by a ModelLoader"):
        resolve(ModelLoader("pocket"), given={"tensor_parallel": 2})
    assert resolve("pocket", given={"tensor_parallel": 1}).placement == Placement()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.Qwen2Config(**SHAPE, **HEADS), "2 key-value heads, which 4 processes can't share evenly"),
        (transformers.LlamaConfig(**SHAPE, num_attention_heads=6), "6 attention heads, which 4 .* 1 or 2 or 3 or 6"),
        (transformers.GPT2Config(), "no plan to divide models of the family 'gpt2'"),
        (transformers.Qwen2_5_VLConfig(), "sees pictures"),
        (transformers.AutoConfig.for_model("hrm_text"), "other answers"),
    ],
)
def test_a_model_that_can_not_be_divided_says_why(config, words):
    with pytest.raises(UnsupportedModelError, match=words):
        check_divisible(config, 4, "m")


def test_each_rank_has_a_card_and_fewer_cards_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [rank_device(None, Shard(rank, 2, "")) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert rank_device("cuda:1", Shard(1, 2, "")) == "cuda:2"
    assert rank_device("cpu", Shard(1, 2, "")) == "cpu"
    with pytest.raises(ConfigError, match="needs as many GPUs from cuda:2 on, and torch sees 3"):
        rank_device("cuda:2", Shard(1, 2, ""))


def test_processes_see_the_cards_that_were_named_and_no_others(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible(["cuda:2", "cuda:3"]) == "2,3"
    assert visible([]) == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-1a")
    assert visible(["cuda:0", "cuda:2"]) == "4,GPU-1a"


def test_ranks_and_replicas_share_cards_and_memory():
    both = resolve("pocket", given={"tensor_parallel": 2, "devices": [0, 1, 2, 3]}).placement
    assert both == Placement(("cuda:0", "cuda:1", "cuda:2", "cuda:3"), 2)
    assert both.need(MemoryNeed("cuda:0", 10, 20, 30)) == MemoryNeed("cuda:0", 5, 10, 15)
    twice = resolve("pocket", given={"tensor_parallel": 2, "replicas": 2}).placement
    assert twice == Placement((None,) * 4, 2)
    assert twice.need(MemoryNeed("cpu", 10, 20, 30)) == MemoryNeed("cpu", 20, 40, 60)
