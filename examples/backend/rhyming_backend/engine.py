"""The engine: answers each word with one that rhymes. A token is a word.

The poet works in a thread, as a model would, so that no event loop waits for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import (
    ContextLengthError,
    EngineUnavailableError,
    InvalidRequestError,
    UnsupportedFieldError,
)
from llmapi_kit.types import (
    Accepted,
    Delta,
    Embedded,
    EngineInfo,
    EngineStats,
    Event,
    Failed,
    Finished,
    Readiness,
)

MOODS = {"glad": "bright", "sad": "gray"}
WORD_S = 0.003  # how long the poet thinks about a word


class RhymingEngine:
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        name: of the poet.
        mood: one of `MOODS`.
    """

    def __init__(self, name: str, mood: str) -> None:
        self.info = EngineInfo(
            id=name,
            context_length=2000,
            created=int(time.time()),
            owned_by="llmapi-kit-rhyming",
            description=f"A {mood} poet who answers each word with one that rhymes.",
            capabilities=("chat", "completions"),
        )
        self._start = MOODS[mood][0]
        self._lock = threading.Lock()  # generate runs on many event loops, stats is read from any thread
        self._stats = EngineStats()
        self._is_closed = False

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Check, accept, answer word by word, and say how it ended; whatever happens, the books are right."""
        self._check_open()
        refuse_what_no_poet_can(request)
        words, param = words_of(request)
        if len(words) >= self.info.context_length:
            raise ContextLengthError(
                f"At most {self.info.context_length - 1} words are allowed; the {param} has {len(words)}.", param=param
            )
        wanted = request.sampling.max_tokens
        limit = len(words) if wanted is None else min(wanted, len(words))
        num_made, is_over = 0, False
        self._count(num_running=1)
        try:
            yield Accepted(len(words))
            for word in words[:limit]:
                rhyme = await asyncio.to_thread(self._rhyme, word)
                if self._is_closed:
                    is_over = True
                    self._count(num_failed=1)
                    yield Failed(EngineUnavailableError("The poet was sent home."))
                    return
                yield Delta(rhyme if num_made == 0 else f" {rhyme}")
                num_made += 1
                self._count(num_completion_tokens=1)
            is_over = True
            self._count(num_finished=1, num_prompt_tokens=len(words))
            yield Finished("length" if limit < len(words) else "stop", len(words), num_made)
        finally:  # also when the client left in the middle
            self._count(num_running=-1, num_cancelled=0 if is_over else 1)

    async def embed(self, inputs: Sequence[str | Sequence[int]], *, cache_salt: str = "") -> list[Embedded]:
        """Not what a poet does."""
        raise UnsupportedFieldError("A poet makes no embeddings.", param="model")

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Not what a poet does."""
        raise UnsupportedFieldError("A poet's words have no numbers.", param="model")

    async def tokenize_chat(self, request: GenerationRequest) -> list[int]:
        """Not what a poet does."""
        raise UnsupportedFieldError("A poet's words have no numbers.", param="model")

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Not what a poet does."""
        raise UnsupportedFieldError("A poet's words have no numbers.", param="model")

    def readiness(self) -> Readiness:
        """Ready until it is closed."""
        return Readiness(False, "The poet was sent home.") if self._is_closed else Readiness(True)

    def stats(self) -> EngineStats:
        """A copy, as the caller may keep it."""
        with self._lock:
            return self._stats.after(EngineStats())

    def close(self) -> None:
        """Answers under way end at their next word."""
        self._is_closed = True

    def _rhyme(self, word: str) -> str:
        """The work, in a thread: for a model, one step."""
        time.sleep(WORD_S)
        tail = word.lstrip("bcdfghjklmnpqrstvwxyzBCDFGHJKLMNPQRSTVWXYZ")
        return f"{self._start}{tail or word}"

    def _count(self, **changes: int) -> None:
        with self._lock:
            for name, change in changes.items():
                setattr(self._stats, name, getattr(self._stats, name) + change)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineUnavailableError("The poet was sent home.")


def words_of(request: GenerationRequest) -> tuple[list[str], str]:
    """The words to answer, and the field that they came in."""
    if request.messages is not None:
        words, param = str(request.messages[-1]["content"] or "").split(), "messages"
    elif isinstance(request.prompt, str):
        words, param = request.prompt.split(), "prompt"
    else:
        raise UnsupportedFieldError("A poet's words have no numbers: the prompt must be text.", param="prompt")
    if not words:
        raise InvalidRequestError(f"The {param} is empty; a poet needs a word to begin with.", param=param)
    return words, param


def refuse_what_no_poet_can(request: GenerationRequest) -> None:
    """Nothing is taken and ignored: each field that is not honoured is refused by its name."""
    sampling = request.sampling
    asked = {
        "n": request.n > 1,
        "best_of": request.best_of > request.n,
        "num_beams": request.num_beams > 1,
        "suffix": request.suffix is not None,
        "echo": request.echo,
        "tools": request.tools is not None,
        "reasoning_effort": request.reasoning_effort is not None,
        "continue_final_message": request.is_continuing,
        "chat_template_kwargs": bool(request.template_options),
        "stop": bool(sampling.stop),
        "stop_token_ids": bool(sampling.stop_token_ids),
        "logit_bias": bool(sampling.logit_bias),
        "logprobs": sampling.logprobs is not None,
        "response_format": sampling.constraint is not None,
    }
    for param, is_asked in asked.items():
        if is_asked:
            raise UnsupportedFieldError(f"A poet can't honour {param}; leave it out.", param=param)
