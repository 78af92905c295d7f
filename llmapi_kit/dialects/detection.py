"""Which dialect a chat template speaks, by what it writes.

Knows templates as text; it neither renders nor parses them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from llmapi_kit.dialects.base import Reasoning
from llmapi_kit.dialects.call_form import CallForm
from llmapi_kit.dialects.deepseek import CALL_BEGIN, JSON_FENCE, SEPARATOR, DeepSeekCalls
from llmapi_kit.dialects.dialect import Dialect
from llmapi_kit.dialects.hermes import OPENING, HermesCalls
from llmapi_kit.dialects.history import history_form
from llmapi_kit.dialects.llama import LlamaCalls
from llmapi_kit.dialects.mistral import ARGS, CALL_ID, TOOL_CALLS, MistralCalls
from llmapi_kit.dialects.response_template import ResponseTemplateForm
from llmapi_kit.dialects.xml_calls import FUNCTION, PARAMETER

logger = logging.getLogger(__name__)

REASONINGS = (Reasoning("<think>", "</think>"), Reasoning("[THINK]", "[/THINK]"))


def dialect_of(
    chat_template: str | None, response_template: object = None, added_tokens: Collection[str] = ()
) -> Dialect:
    """The dialect of a template; one without calls where the template, or what it writes, is not known.

    Reasoning is read only where the template knows its markers.

    Args:
        chat_template: of the tokenizer.
        response_template: of the tokenizer, if it ships one; used where the chat template writes in no known way.
        added_tokens: the vocabulary's added tokens, special or not.
    """
    template = chat_template or ""
    name, calls = _calls_of(template)
    if calls is None and isinstance(response_template, Mapping):
        try:
            shipped = ResponseTemplateForm(response_template, added_tokens)
        except ValueError as exc:
            logger.warning("The tokenizer's response template can't be used: %s", exc)
        else:
            return Dialect("shipped", None, shipped.reasoning, history_form(template), shipped)
    reasoning = next((r for r in REASONINGS if r.opening in template or r.closing in template), None)
    return Dialect(name, calls, reasoning, history_form(template))


def _calls_of(template: str) -> tuple[str, CallForm | None]:
    def has(*texts: str) -> bool:
        return all(text in template for text in texts)

    if has(FUNCTION, PARAMETER):
        return "qwen_xml", HermesCalls(is_xml=True)
    if has(OPENING, "arguments") and not has("<arg_key>"):
        return "hermes", HermesCalls()
    if has(TOOL_CALLS):
        return "mistral", MistralCalls(is_array=not has(ARGS), has_call_id=has(ARGS, CALL_ID))
    if has(CALL_BEGIN, SEPARATOR):
        return "deepseek", DeepSeekCalls(is_fenced=has(JSON_FENCE))
    if has("<|start_header_id|>", "tool_calls", '"parameters": '):
        return "llama", LlamaCalls()
    return "plain", None
