from __future__ import annotations

import pytest

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.dialects import dialect_of
from llmapi_kit.dialects.base import Reasoning
from llmapi_kit.dialects.deepseek import DeepSeekCalls
from llmapi_kit.dialects.hermes import HermesCalls
from llmapi_kit.dialects.llama import LlamaCalls
from llmapi_kit.dialects.mistral import MistralCalls
from tests.dialects.replies import THINK
from tests.dialects.templates import FAMILIES, GLM

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("family", "name", "calls", "reasoning"),
    [
        ("hermes", "hermes", HermesCalls(), None),
        ("qwen3", "hermes", HermesCalls(), THINK),
        ("qwen xml", "qwen_xml", HermesCalls(is_xml=True), None),
        ("llama", "llama", LlamaCalls(), None),
        ("mistral", "mistral", MistralCalls(), None),
        ("ministral", "mistral", MistralCalls(is_array=False), Reasoning("[THINK]", "[/THINK]")),
        ("deepseek v3", "deepseek", DeepSeekCalls(), None),
        ("deepseek r1", "deepseek", DeepSeekCalls(), THINK),
        ("deepseek v3.1", "deepseek", DeepSeekCalls(is_fenced=False), THINK),
    ],
)
def test_a_familys_template_tells_its_dialect(family, name, calls, reasoning):
    dialect = dialect_of(FAMILIES[family])
    assert (dialect.name, dialect.calls, dialect.reasoning) == (name, calls, reasoning)
    assert set(calls.markers) <= set(dialect.markers)


def test_mistral_with_ids_between_name_and_arguments():
    template = "{{ '[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]' + arguments }}"
    assert dialect_of(template).calls == MistralCalls(is_array=False, has_call_id=True)


def test_the_pocket_model_speaks_hermes():
    dialect = dialect_of((POCKET_DIR / "chat_template.jinja").read_text(encoding="utf-8"))
    assert (dialect.name, dialect.calls, dialect.reasoning) == ("hermes", HermesCalls(), None)


@pytest.mark.parametrize("template", [None, "", "{{ messages[0].content }}", GLM])
def test_an_unknown_template_has_a_plain_dialect(template):
    dialect = dialect_of(template)
    assert (dialect.name, dialect.calls, dialect.reasoning, dialect.markers) == ("plain", None, None, ())


def test_an_unknown_template_may_still_reason():
    dialect = dialect_of("{{ messages[0].content + '<think>' }}")
    assert not dialect.has_calls
    assert dialect.reasoning == THINK
    assert dialect.markers == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("prompt", "starts_inside"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_a_prompt_that_ends_in_the_opening_marker_starts_the_reply_inside(prompt, starts_inside):
    assert dialect_of(FAMILIES["qwen3"]).starts_in_reasoning(prompt) == starts_inside
    assert not dialect_of(FAMILIES["hermes"]).starts_in_reasoning(prompt)
