"""A model in this process: chat template and tokenizer in front, batching loop behind.

Knows nothing of HTTP. Templating and tokenizing run in worker threads unless the prompt is short, generation on the
loop's own thread, so the event loop of whoever asks is not held up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from llmapi_kit.batching.beam_search import BeamSearch
from llmapi_kit.batching.draft_model import DraftModel
from llmapi_kit.batching.event_outbox import StepEvents
from llmapi_kit.batching.loop import BatchingLoop
from llmapi_kit.batching.prompt_lookup import PromptLookup
from llmapi_kit.batching.proposer import Proposer
from llmapi_kit.batching.request import Request
from llmapi_kit.config import Settings
from llmapi_kit.dialects import PLAIN, Dialect
from llmapi_kit.engines.base import GenerationRequest, Message
from llmapi_kit.engines.channel import Channel, deliver
from llmapi_kit.engines.local.best_of import choose_best
from llmapi_kit.engines.local.loaded_adapter import AdapterFiles, LoadedAdapter
from llmapi_kit.engines.local.local_adapters import LocalAdapters
from llmapi_kit.engines.local.prompt_builder import Prompt, PromptBuilder
from llmapi_kit.engines.local.reply_reader import ReplyReader
from llmapi_kit.engines.local.text_codec import TextCodec
from llmapi_kit.errors import ContextLengthError, InvalidRequestError, UnsupportedFieldError
from llmapi_kit.runners.base import AdapterRunner, Runner
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Accepted, Delta, Embedded, EngineInfo, EngineStats, Event, Failed, Finished, Readiness

if TYPE_CHECKING:
    from llmapi_kit.engines.local.prompt_pictures import PromptPictures
    from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
    from llmapi_kit.sampling.matcher import Matcher

# Characters and messages of a prompt that is made on the event loop: templating and tokenizing it takes about a
# millisecond at most. A thread costs as much, as it and the server's wait for each other's GIL.
QUICK_LENGTH = 3000
QUICK_MESSAGES = 30
# Enough for a word of several tokens, and for a character of several bytes
NUM_CONTEXT_TOKENS = 8


class LocalEngine:
    """See `llmapi_kit.engines.base.Engine`.

    Args:
        info: what it tells of itself; `context_length` is taken from the runner.
        runner: owned from now on: closed with the engine.
        codec: tokenizer and chat template.
        dialect: how the model writes reasoning and tool calls.
        grammars: compiles what an answer must match; None where the model's vocabulary can't be constrained.
        max_queue: requests that may wait for a slot.
        settings: step size, queue timeout and prefix cache.
        prepare_messages: what is done to the messages of a request first, in worker threads.
        prompt_pictures: of a model that sees.
        has_lookup: whether to guess what answers go on with, see `PromptLookup`; for a runner whose slots can go back.
        draft: guesses it in place of that; owned from now on, and used by the loop's thread.
        read_adapter: reads a LoRA adapter, for a runner that takes them; None where it takes none.

    Attributes:
        info: as given.
        adapters: which it answers with besides; None where it takes none.
    """

    def __init__(
        self,
        info: EngineInfo,
        runner: Runner,
        codec: TextCodec,
        *,
        dialect: Dialect | None = None,
        grammars: GrammarCompiler | None = None,
        max_queue: int = 128,
        settings: Settings | None = None,
        prepare_messages: Callable[[Sequence[Message]], Sequence[Message]] | None = None,
        prompt_pictures: PromptPictures | None = None,
        read_adapter: Callable[[str], AdapterFiles] | None = None,
        has_lookup: bool = False,
        draft: DraftModel | None = None,
    ) -> None:
        settings = settings or Settings()
        self.info = info
        self._codec = codec
        self._prompts = PromptBuilder(
            codec,
            dialect or PLAIN,
            runner.vocab_size,
            is_cache_per_key=settings.prefix_cache == "per_key",
            prompt_pictures=prompt_pictures,
        )
        self._prepare_messages = prepare_messages
        self._grammars = grammars
        self._is_cache_per_key = settings.prefix_cache == "per_key"
        self._max_length = runner.max_length
        self._default_max_tokens = settings.default_max_tokens
        self._num_slots = runner.num_slots
        self._has_lookup, self._draft = has_lookup, draft
        self._draft_tokens = settings.draft_tokens
        self._loop = BatchingLoop(
            runner,
            self._deliver,
            eos_ids=codec.eos_ids,
            token_bytes=codec.token_bytes,
            max_queue=max_queue,
            step_tokens=settings.step_tokens,
            max_stall_s=settings.max_stall_s,
            queue_timeout_s=settings.queue_timeout_s,
            has_prefix_cache=settings.prefix_cache != "off",
            draft=draft,
            name=f"llmapi_kit engine {info.id}",
        )
        self.adapters = self._adapters(runner, read_adapter)

    def _adapters(self, runner: Runner, read: Callable[[str], AdapterFiles] | None) -> LocalAdapters | None:
        if read is None or not isinstance(runner, AdapterRunner):
            return None

        def install(number: int, weights: object) -> None:
            self._loop.call(partial(runner.add_adapter, number, weights)).result()

        def uninstall(number: int) -> None:
            self._loop.call(partial(runner.remove_adapter, number))

        return LocalAdapters(self, read, install, uninstall)

    async def generate(
        self, request: GenerationRequest, *, adapter: LoadedAdapter | None = None
    ) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`. With an adapter, which stays until the answer has ended."""
        with self._using(adapter):
            if self._is_quick(request):
                prompt, candidates = self._prepare(request, adapter)
            else:
                prompt, candidates = await asyncio.to_thread(self._prepare, request, adapter)
            if (constraint := prompt.constraint or request.sampling.constraint) is not None:
                if request.sampling.min_tokens:
                    raise InvalidRequestError(
                        f"min_tokens does not go with {constraint.param}, which says when the answer is complete.",
                        param="min_tokens",
                    )
                matcher = await self._compile(constraint)
                for candidate in candidates:
                    candidate.matcher = matcher.clone()
            channel = Channel[Event]()
            for candidate in candidates:
                candidate.channel = channel
            self._loop.submit(*candidates)
            is_parallel = request.tools is None or request.tools.is_parallel
            reply = ReplyReader(prompt.parsers, is_parallel=is_parallel) if prompt.parsers else None
            num_left = request.n
            try:
                yield Accepted(len(prompt.ids))
                best = await choose_best(channel, request) if request.best_of > request.n else []
                while num_left:
                    event = best.pop(0) if best else await channel.receive()
                    for read in reply.read(event) if reply else (event,):
                        if isinstance(read, Finished):
                            num_left -= 1
                            if isinstance(event, Delta):  # the answer needs no more
                                self._loop.abort(candidates[read.index])
                                num_images = prompt.num_image_tokens
                                read = replace(read, num_prompt_tokens=len(prompt.ids), num_image_tokens=num_images)
                        yield read
                    if isinstance(event, Failed):
                        return
            finally:
                for candidate in candidates:
                    if not candidate.is_done:
                        self._loop.abort(candidate)

    async def embed(
        self,
        inputs: Sequence[str | Sequence[int]],
        *,
        cache_salt: str = "",
        adapter: LoadedAdapter | None = None,
    ) -> list[Embedded]:
        """See `Engine.embed`. At most as many inputs as there are slots are queued at once."""
        with self._using(adapter):
            return await self._embed(inputs, cache_salt, adapter)

    async def _embed(
        self, inputs: Sequence[str | Sequence[int]], cache_salt: str, adapter: LoadedAdapter | None
    ) -> list[Embedded]:
        prompts = await asyncio.to_thread(lambda: [self._embedding_ids(each, i) for i, each in enumerate(inputs)])
        channel = Channel[Event]()
        params = SamplingParams(temperature=0)
        waiting = deque(
            Request(
                id=f"embedding {index}",
                prompt_ids=ids,
                params=params,
                max_new_tokens=0,
                detokenizer=self._codec.detokenizer(),
                index=index,
                key_id=cache_salt,
                cache_salt=self._salt(cache_salt, adapter),
                channel=channel,
                adapter=_number(adapter),
                is_embedding=True,
            )
            for index, ids in enumerate(prompts)
        )
        submitted: list[Request] = []
        embedded: list[Embedded] = []
        try:
            while len(embedded) < len(prompts):
                while waiting and len(submitted) - len(embedded) < self._num_slots:
                    submitted.append(waiting.popleft())
                    self._loop.submit(submitted[-1])
                event = await channel.receive()
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Embedded):
                    embedded.append(event)
        finally:
            for request in submitted:
                if not request.is_done:
                    self._loop.abort(request)
        return sorted(embedded, key=lambda each: each.index)

    async def tokenize(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        return await asyncio.to_thread(self._codec.encode, text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, request: GenerationRequest, *, adapter: LoadedAdapter | None = None) -> list[int]:
        """See `Engine.tokenize_chat`."""
        return (await asyncio.to_thread(self._build, request, adapter)).ids

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `Engine.detokenize`."""
        self._prompts.check_ids("tokens", token_ids)
        return await asyncio.to_thread(self._codec.decode, token_ids)

    def readiness(self) -> Readiness:
        """See `Engine.readiness`."""
        return self._loop.readiness()

    def step_started(self) -> float | None:
        """See `SteppingEngine.step_started`."""
        return self._loop.step_started()

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return self._loop.stats()

    def close(self) -> None:
        """See `Engine.close`."""
        self._loop.close()
        if self._grammars is not None:
            self._grammars.close()

    def _is_quick(self, request: GenerationRequest) -> bool:
        """Whether preparing it takes less than handing it to a thread: a short text, to be answered in plain words."""
        messages = request.messages or ()
        if self._prepare_messages is not None or request.tools is not None or request.template_options:
            return False
        if len(messages) > QUICK_MESSAGES or any("tool_calls" in message for message in messages):
            return False
        if any(isinstance(message.get("content"), list) for message in messages):
            return False
        texts = (request.prompt, request.suffix, *(message.get("content") for message in messages))
        return sum(len(text or "") for text in texts) <= QUICK_LENGTH

    def _prepare(self, request: GenerationRequest, adapter: LoadedAdapter | None) -> tuple[Prompt, list[Request]]:
        """Everything that can be refused or takes long; for a worker thread, but where it is quick."""
        prompt = self._build(request, adapter)
        sampling = request.sampling
        max_new_tokens = self._max_new_tokens(request, prompt.ids)
        if request.best_of > request.n and sampling.logprobs is None:
            sampling = replace(sampling, logprobs=0)  # candidates are compared by them
        if adapter is not None and adapter.files.eos_ids and not sampling.ignore_eos:
            sampling = replace(sampling, stop_token_ids=(*sampling.stop_token_ids, *adapter.files.eos_ids))
        if request.num_beams > self._num_slots:
            raise InvalidRequestError(
                f"num_beams is {request.num_beams}; this model has room for {self._num_slots} at once.",
                param="num_beams",
            )
        length = len(prompt.ids) + max_new_tokens
        if request.num_beams > 1 and not self._loop.has_room(request.num_beams, length):
            raise InvalidRequestError(
                f"num_beams is {request.num_beams}; with up to {length} tokens each, prompt included, they take more "
                "memory than this model has for them. Ask for fewer beams, or for less with max_tokens.",
                param="num_beams",
            )
        beams: BeamSearch[Request] | None = None
        if request.num_beams > 1:
            beams = BeamSearch(request.num_beams, request.n, length_penalty=request.length_penalty)
        # An assistant's message is a text of its own; a completion goes on with the prompt's
        context = prompt.ids[-NUM_CONTEXT_TOKENS:] if request.messages is None else ()
        skip = sampling.skip_special_tokens
        detokenizer = partial(self._codec.detokenizer, skip_special_tokens=skip, context_ids=context)
        candidates = [
            Request(
                id=request.id,
                prompt_ids=prompt.ids,
                params=sampling,
                max_new_tokens=max_new_tokens,
                detokenizer=detokenizer(),
                index=index,
                key_id=request.key_id,
                cache_salt=self._salt(request.cache_salt, adapter),
                adapter=_number(adapter),
                context_ids=context,
                echo=prompt.echo,
                keeps=prompt.pictures,
                whole=prompt.whole,
                num_image_tokens=prompt.num_image_tokens,
                scores_prompt=request.echo and request.prompt is not None and sampling.logprobs is not None,
                beams=beams,
                proposer=self._proposer(prompt.ids) if beams is None else None,
                detokenizers=[detokenizer() for _ in range(request.n)] if beams else (),
            )
            for index in range(1 if beams else max(request.n, request.best_of))
        ]
        return prompt, candidates

    def _proposer(self, prompt_ids: Sequence[int]) -> Proposer | None:
        """Who guesses the tokens of an answer."""
        if self._draft is not None:
            return self._draft.proposer(self._draft_tokens)
        return PromptLookup(prompt_ids, self._draft_tokens) if self._has_lookup else None

    def _using(self, adapter: LoadedAdapter | None) -> AbstractContextManager[None]:
        return nullcontext() if adapter is None or self.adapters is None else self.adapters.using(adapter)

    def _salt(self, cache_salt: str, adapter: LoadedAdapter | None) -> str:
        """Requests with the same one share cached prefixes, which are another adapter's where the adapter is."""
        salt = cache_salt if self._is_cache_per_key else ""
        return salt if adapter is None else f"{salt} adapter {adapter.number}"

    def _build(self, request: GenerationRequest, adapter: LoadedAdapter | None = None) -> Prompt:
        if request.messages is not None and self._prepare_messages is not None:
            request = replace(request, messages=self._prepare_messages(request.messages))
        prompts = adapter.files.prompts if adapter is not None else None
        return (prompts or self._prompts).build(request)

    async def _compile(self, constraint: Constraint) -> Matcher:
        """What an answer is held to. Waits without a worker thread: grammars of strangers may take their time."""
        if self._grammars is None:
            raise UnsupportedFieldError(
                f"This model's vocabulary can't be constrained to a grammar, so {constraint.param} is not possible.",
                param=constraint.param,
            )
        return await asyncio.wrap_future(self._grammars.submit(constraint))

    def _embedding_ids(self, text: str | Sequence[int], index: int) -> list[int]:
        """Token ids of an input to embed, checked."""
        param = f"input.{index}"
        if isinstance(text, str):
            ids = self._codec.encode(text, add_special_tokens=True)
        else:
            ids = list(text)
            self._prompts.check_ids(param, ids)
        if not ids:
            raise InvalidRequestError(f"{param} is empty; it must have at least one token.", param=param)
        if len(ids) > self._max_length:
            raise ContextLengthError(
                f"This model's context is {self._max_length} tokens; {param} has {len(ids)}. Shorten it.", param=param
            )
        return ids

    def _max_new_tokens(self, request: GenerationRequest, prompt_ids: Sequence[int]) -> int:
        """Room for the answer.

        Raises:
            ContextLengthError: prompt and requested answer do not fit.
        """
        param = "messages" if request.messages is not None else "prompt"
        room = self._max_length - len(prompt_ids)
        wanted = request.sampling.max_tokens
        if wanted is not None and request.ends_at_context:
            wanted = min(wanted, max(room, 1))
        least = request.sampling.min_tokens if wanted is None else wanted
        if room < (0 if wanted == 0 else 1) or least > room:
            asked = f" and {least} for the answer" if least and room >= 1 else ""
            raise ContextLengthError(
                f"This model's context is {self._max_length} tokens; the request needs {len(prompt_ids)} for the "
                f"prompt{asked}. Shorten the {param} or ask for fewer tokens.",
                param=param,
            )
        if wanted is not None:
            return wanted
        return min(room, max(least, self._default_max_tokens or room))

    def _deliver(self, events: StepEvents) -> None:
        """Engine thread: all events of a step, one wake-up for each event loop."""
        pairs = [(request.channel, event) for request, event in events if isinstance(request.channel, Channel)]
        unreachable = {id(channel) for channel in deliver(pairs)}
        if unreachable:
            for request, _ in events:
                if id(request.channel) in unreachable:
                    self._loop.abort(request)


def _number(adapter: LoadedAdapter | None) -> int:
    """What the runner knows an adapter by."""
    return 0 if adapter is None else adapter.number
