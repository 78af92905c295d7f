"""How much of a conversation still fits: the oldest exchanges are left out first, the system prompt never.

Counts with the engine's own tokenizer where it has one, else by estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmapi_kit.engines.base import Engine, GenerationRequest
from llmapi_kit.errors import ContextLengthError, UnsupportedFieldError
from llmapi_kit.sessions.text_tokens import estimate_tokens
from llmapi_kit.store.sessions import Turn

BuildRequest = Callable[[Sequence[Turn]], GenerationRequest]
EXCHANGE = 2  # turns: what was said, and the reply
# Kept free for a reply whose length nobody has set, but no more than a quarter of the context
REPLY_TOKENS = 512
TOKENS_A_MESSAGE = 4


async def fitting_history(engine: Engine, build: BuildRequest, history: Sequence[Turn]) -> list[Turn]:
    """The latest exchanges of a history that leave room for a reply.

    Args:
        engine: who will reply; one without a fixed context gets all.
        build: makes the request with a history.
        history: oldest first, each prompt followed by its reply.

    Raises:
        ContextLengthError: the prompt does not fit by itself.
    """
    context = engine.info.context_length
    if not context:
        return list(history)
    limit = context - (build(()).sampling.max_tokens or min(REPLY_TOKENS, context // 4))

    async def num_tokens(num_left_out: int) -> int:
        return await count_request(engine, build(history[num_left_out * EXCHANGE :]))

    low, high = _certainly_left_out(history, limit), len(history) // EXCHANGE
    if await num_tokens(low) <= limit:
        return list(history[low * EXCHANGE :])
    while low + 1 < high:  # `low` exchanges left out are too few; whether `high` are enough does not matter
        middle = (low + high) // 2
        if await num_tokens(middle) <= limit:
            high = middle
        else:
            low = middle
    if high * EXCHANGE >= len(history) and (num := await num_tokens(high)) >= context:
        raise ContextLengthError(
            f"This model's context is {context} tokens; what is said has {num}, without any history. Shorten it.",
            param="content",
        )
    return list(history[high * EXCHANGE :])


async def count_request(engine: Engine, request: GenerationRequest) -> int:
    """Tokens of a request's prompt."""
    try:
        if request.messages is not None:
            return len(await engine.tokenize_chat(request))
        return len(await engine.tokenize(str(request.prompt), add_special_tokens=True))
    except UnsupportedFieldError:
        said = (
            [str(request.prompt)]
            if request.messages is None
            else [str(message["content"]) for message in request.messages]
        )
        return sum(estimate_tokens(text) + TOKENS_A_MESSAGE for text in said)


async def count_text(engine: Engine, text: str) -> int:
    """Tokens of a text by itself."""
    try:
        return len(await engine.tokenize(text))
    except UnsupportedFieldError:
        return estimate_tokens(text)


def _certainly_left_out(history: Sequence[Turn], limit: int) -> int:
    """How many exchanges need not be counted again: what came after them is twice as much as may be."""
    num = 0
    for i in range(len(history) - 1, -1, -1):
        num += history[i].num_tokens
        if num > 2 * limit:
            return i // EXCHANGE + 1
    return 0
