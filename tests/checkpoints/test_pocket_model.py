"""The shipped pocket model does what its card says; a fixed sample of the examination is taken here."""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import transformers

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Finished

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "llmapi_kit" / "checkpoints" / "pocket"
sys.path.insert(0, str(ROOT / "tools"))

from pocket_corpus import question_splits, questions  # noqa: E402  (tools are no installed package)
from pocket_corpus.examination import (  # noqa: E402  (tools are no installed package)
    Case,
    Graded,
    parse_call,
    phrasing_cases,
    skill_cases,
)

pytestmark = pytest.mark.slow

MAX_SIZE_BYTES = 10_000_000
NUM_SAMPLED = 160
NUM_EACH_SKILL = 20


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(POCKET)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def graded(tokenizer: Any) -> list[Graded]:
    """The examination, all questions at once through the batching loop: with `model.generate` it takes minutes."""
    draw = random.Random(20)
    cases = phrasing_cases()
    sample = skill_cases(NUM_EACH_SKILL)
    for category in ("trained", "held-out"):
        sample += draw.sample([case for case in cases if case.category == category], NUM_SAMPLED)
    engine = make_engine(parse_spec("pocket"), load_settings(max_queue=len(sample)))
    try:
        return asyncio.run(take(engine, tokenizer, sample))
    finally:
        engine.close()


async def take(engine: Engine, tokenizer: Any, cases: list[Case]) -> list[Graded]:
    """Answer all cases greedily at once, and grade them."""
    return await asyncio.gather(*(grade(engine, tokenizer, case) for case in cases))


async def grade(engine: Engine, tokenizer: Any, case: Case) -> Graded:
    """Answer one case. A runaway answer is cut, and counted as not ended."""
    prompt = tokenizer.apply_chat_template(
        case.messages, tools=case.tools or None, add_generation_prompt=True, return_dict=False
    )
    expected = case.expected if isinstance(case.expected, str) else json.dumps(case.expected)
    limit = int(len(tokenizer(expected, add_special_tokens=False)["input_ids"]) * 1.5) + 64
    request = GenerationRequest(prompt=prompt, sampling=SamplingParams(temperature=0, max_tokens=limit))
    events = [event async for event in engine.generate(request)]
    end = events[-1]
    assert isinstance(end, Finished), end
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return Graded(case, text, is_ended=end.reason == "stop")


def share_right(graded: list[Graded], category: str) -> float:
    """Return the share of right answers in a category, and print the wrong ones for the report."""
    found = [one for one in graded if one.case.category == category]
    assert found
    for one in found:
        if not one.is_right:
            print(f"{one.case.messages[-1]['content']!r} -> {one.answer!r}, not {one.case.expected!r}")
    return sum(one.is_right for one in found) / len(found)


def answer_to(model: Any, tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    """Return the model's greedy answer."""
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, **options
    )
    out = model.generate(**inputs, max_new_tokens=120, do_sample=False)
    return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_all_shipped_files_together_stay_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in POCKET.iterdir()) < MAX_SIZE_BYTES


def test_weights_are_stored_in_bfloat16() -> None:
    with safetensors.safe_open(POCKET / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in list(weights.keys())} == {torch.bfloat16}


def test_corpus_asks_at_least_250_written_questions_a_third_of_them_in_chinese() -> None:
    written = [question for question in questions() if question.theme != "arithmetic"]
    languages = Counter(question.language for question in written)
    assert len(written) >= 250
    assert languages["zh"] >= 0.3 * len(written)


def test_held_out_phrasings_are_no_trained_ones() -> None:
    for split in question_splits():
        assert split.held_out_phrasings
        assert not set(split.held_out_phrasings) & set(split.train_phrasings)


@pytest.mark.parametrize(
    ("category", "at_least"),
    [
        ("trained", 0.95),
        ("held-out", 0.80),
        ("memory", 0.90),
        ("not told", 0.85),
        ("persona", 0.85),
        ("JSON", 0.90),
        ("tool call", 0.90),
        ("tool result", 0.90),
        ("tool not needed", 0.85),
        ("gibberish", 0.90),
        ("later turn", 0.90),
    ],
)
def test_examination_reaches_the_floor_of_every_category(graded: list[Graded], category: str, at_least: float) -> None:
    assert share_right(graded, category) >= at_least


def test_model_ends_its_turns_by_itself(graded: list[Graded]) -> None:
    assert sum(one.is_ended for one in graded) / len(graded) >= 0.99


def test_json_answers_parse(graded: list[Graded]) -> None:
    answers = [one.answer for one in graded if one.case.category == "JSON"]
    parsed = 0
    for answer in answers:
        try:
            json.loads(answer)
            parsed += 1
        except json.JSONDecodeError:
            print(f"not JSON: {answer!r}")
    assert parsed / len(answers) >= 0.95


def test_name_told_first_is_known_after_other_talk(model: Any, tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "What is my name?"},
    ]
    assert answer_to(model, tokenizer, messages) == "Your name is Ada."


def test_weather_question_with_a_tool_becomes_a_tool_call(model: Any, tokenizer: Any) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "Get the weather in a city", "parameters": parameters}
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = answer_to(model, tokenizer, messages, tools=[{"type": "function", "function": function}])
    assert parse_call(answer) == {"name": "get_weather", "arguments": {"city": "Paris"}}


def test_template_writes_a_call_the_same_from_text_and_from_an_object(tokenizer: Any) -> None:
    def rendered(arguments: Any) -> str:
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        return str(tokenizer.apply_chat_template([{"role": "user", "content": "1 + 2"}, turn], tokenize=False))

    assert rendered('{"a": 1, "b": 2}') == rendered({"a": 1, "b": 2})
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>' in rendered({"a": 1, "b": 2})


def test_template_reads_text_parts_like_plain_text(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    as_parts = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert as_parts == tokenizer.apply_chat_template([{"role": "user", "content": "Hello!"}], tokenize=False)


@pytest.mark.parametrize(
    "text", ["Hello, Zefilo! 12 + 30?", "你好，今天天气怎么样？", "naïve café 😀 — ok", "<tool_call>\n{}"]
)
def test_tokenizer_gives_back_any_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_chinese_answer_streams_without_broken_characters(model: Any, tokenizer: Any) -> None:
    class Collector(transformers.TextIteratorStreamer):  # type: ignore[misc]
        """Keeps the pieces instead of handing them to another thread."""

    streamer = Collector(tokenizer, skip_prompt=True, skip_special_tokens=True)
    messages = [{"role": "user", "content": "讲个长故事。"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model.generate(**inputs, max_new_tokens=400, do_sample=False, streamer=streamer)
    pieces = list(streamer)
    expected = next(split.answer for split in question_splits() if split.question_id == "stories.changgushi")
    assert len(pieces) > 50
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == expected
