"""Engines that each break one promise, and the tests of the contract that must see it. Run by `test_contract.py`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import EngineUnavailableError, GenerationError, InvalidRequestError
from llmapi_kit.testing import EngineContract
from llmapi_kit.types import Accepted, Delta, EngineStats, Failed, Finished, Readiness


class Broken(MockEngine):
    """A mock whose events go through `spoil`."""

    cannot = frozenset()

    def __init__(self):
        super().__init__(delay_s=0.002, num_tokens=60)

    async def generate(self, request):
        events = super().generate(request)
        try:
            async for event in self.spoil(request, events):
                yield event
        finally:
            await events.aclose()

    def spoil(self, request, events):
        return events


class Contract(EngineContract):
    __test__ = False
    deadline_s = 0.5
    num_examples = 5
    broken: type[Engine] = Broken

    def make_engine(self):
        return self.broken()


def breaks(*tests):
    """Make a test class of a broken engine, of those tests that must fail."""

    def decorate(engine):
        name = f"Test{engine.__name__}"
        others = {test: None for test in ALL if test not in tests}
        body = {"__test__": True, "broken": engine, "cannot": engine.cannot, **others}
        globals()[name] = type(name, (Contract,), body)
        MUST_FAIL[name] = tests
        return engine

    return decorate


MUST_FAIL: dict[str, tuple[str, ...]] = {}
ALL = [name for name in dir(EngineContract) if name.startswith("test_")]


class TestNothingBroken(Contract):
    __test__ = True
    deadline_s = 30


ORDER = "test_events_come_in_order_with_one_end"
LIMIT = "test_at_most_max_tokens_are_made"
ANY = "test_whatever_is_asked_the_events_are_in_order"


@breaks(ORDER, ANY)
class NoAccepted(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if not isinstance(event, Accepted):
                yield event


@breaks(ORDER, ANY)
class NoEnd(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if not isinstance(event, Finished):
                yield event


@breaks(ORDER, ANY)
class TwoEnds(Broken):
    async def spoil(self, request, events):
        async for event in events:
            yield event
            if isinstance(event, Finished):
                yield event


@breaks(ORDER)
class TextAfterTheEnd(Broken):
    async def spoil(self, request, events):
        async for event in events:
            yield event
        yield Delta("one more thing")


@breaks("test_n_answers_each_have_their_end", ANY)
class OneAnswerOfSeveral(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if getattr(event, "index", 0) == 0:
                yield event


@breaks("test_n_answers_each_have_their_end")
class AnswersMixedUp(Broken):
    async def spoil(self, request, events):
        async for event in events:
            yield replace(event, index=0) if isinstance(event, Delta) else event


@breaks("test_closing_the_generator_stops_the_generation", "test_cancelling_the_task_stops_the_generation")
class KeepsItsSlot(Broken):
    num_begun = 0

    async def spoil(self, request, events):
        self.num_begun += 1
        async for event in events:
            yield event

    def stats(self):
        stats = super().stats()
        stats.num_running = self.num_begun
        return stats


@breaks("test_cancelling_the_task_stops_the_generation")
class SwallowsCancellation(Broken):
    async def spoil(self, request, events):
        try:
            async for event in events:
                yield event
        except asyncio.CancelledError:
            yield Finished("stop", 1, 1)


@breaks("test_a_stop_string_ends_the_answer_and_is_not_part_of_it")
class IgnoresStop(Broken):
    async def generate(self, request):
        async for event in super().generate(replace(request, sampling=replace(request.sampling, stop=()))):
            yield event


@breaks("test_a_stop_string_ends_the_answer_and_is_not_part_of_it")
class LeavesStopIn(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if isinstance(event, Finished) and event.reason == "stop":
                yield Delta("".join(request.sampling.stop), 0)
            yield event


@breaks(LIMIT, ANY)
class IgnoresMaxTokens(Broken):
    async def generate(self, request):
        async for event in super().generate(replace(request, sampling=replace(request.sampling, max_tokens=None))):
            yield event


@breaks(LIMIT)
class SaysStopForLength(Broken):
    async def spoil(self, request, events):
        async for event in events:
            yield replace(event, reason="stop") if isinstance(event, Finished) else event


@breaks(ORDER, LIMIT, ANY)
class MiscountsTokens(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if isinstance(event, Finished):
                event = replace(event, num_completion_tokens=event.num_completion_tokens + 5)
            yield event


@breaks(ORDER, ANY)
class MiscountsPrompt(Broken):
    async def spoil(self, request, events):
        async for event in events:
            yield replace(event, num_prompt_tokens=99) if isinstance(event, Finished) else event


@breaks(ORDER)
class FailsWithABareError(Broken):
    async def spoil(self, request, events):
        yield Accepted(1)
        yield Failed(ValueError("not a RequestError"))


@breaks(ORDER, ANY)
class RefusesAfterAccepting(Broken):
    async def spoil(self, request, events):
        yield Accepted(1)
        raise GenerationError("too late to be raised")


@breaks("test_too_long_a_prompt_is_refused_before_it_is_queued")
class CutsLongPrompts(Broken):
    async def generate(self, request):
        if request.messages is not None:
            content = str(request.messages[-1]["content"])
            request = replace(request, messages=[{"role": "user", "content": content[:1000]}])
        async for event in super().generate(request):
            yield event


@breaks("test_closing_the_engine_ends_requests_in_an_error")
class GoesSilentWhenClosed(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if isinstance(event, Failed):
                return
            yield event


@breaks("test_closing_the_engine_ends_requests_in_an_error")
class HangsWhenClosed(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if isinstance(event, Failed):
                await asyncio.Event().wait()
            yield event


@breaks("test_closing_the_engine_ends_requests_in_an_error", "test_a_closed_engine_takes_nothing")
class CanNotBeClosed(Broken):
    def close(self):
        pass


@breaks("test_a_closed_engine_takes_nothing")
class ClosesOnce(Broken):
    def close(self):
        if self._is_closed:
            raise RuntimeError("closed already")
        super().close()


@breaks("test_closing_the_engine_ends_requests_in_an_error")
class SaysReadyWhenClosed(Broken):
    def readiness(self):
        return Readiness(True)


@breaks("test_it_serves_several_event_loops_at_once", "test_many_at_once_get_what_each_gets_alone")
class OneAtATime(Broken):
    def __init__(self):
        super().__init__()
        self._lock = asyncio.Lock()
        self._last = ""

    async def spoil(self, request, events):
        async with self._lock:  # it belongs to the first loop that waits for it
            async for event in events:
                await asyncio.sleep(0.02)
                yield event


@breaks("test_many_at_once_get_what_each_gets_alone")
class TellsOneWhatAnotherAsked(Broken):
    def __init__(self):
        super().__init__()
        self._shared = None

    async def spoil(self, request, events):
        async for event in events:
            if isinstance(event, Delta):
                event, self._shared = self._shared or event, event
                event = replace(event, index=0)
            yield event


@breaks("test_embeddings_are_vectors_of_length_1_or_refused")
class LongVectors(Broken):
    async def embed(self, inputs, *, cache_salt=""):
        return [replace(each, vector=tuple(2 * x for x in each.vector)) for each in await super().embed(inputs)]


@breaks("test_embeddings_are_vectors_of_length_1_or_refused")
class VectorsInAnyOrder(Broken):
    async def embed(self, inputs, *, cache_salt=""):
        return (await super().embed(inputs))[::-1]


@breaks("test_pairs_of_texts_are_scored_by_an_engine_that_says_so")
class ScoresTheOtherWayRound(Broken):
    async def score(self, request):
        return [replace(each, value=-each.value) for each in await super().score(request)]


@breaks("test_as_many_pictures_are_made_as_were_asked_for")
class MakesOnePicture(Broken):
    async def generate_images(self, request):
        return (await super().generate_images(request))[:1]


@breaks("test_tokenizing_there_and_back_gives_the_text")
class LosesWords(Broken):
    async def detokenize(self, token_ids):
        return await super().detokenize(token_ids[:1])


@breaks("test_it_has_all_that_an_engine_has")
class LacksMethods(Broken):
    tokenize_chat = None

    def stats(self):
        return {}


@breaks("test_conversations_are_held_or_refused")
class HoldsUndeclaredConversations(Broken):
    def __init__(self):
        super().__init__()
        self.info = replace(self.info, capabilities=("completions",))


# An engine that declares what it can't do has to refuse it


class RefusesN(Broken):
    async def generate(self, request):
        if request.n > 1:
            raise InvalidRequestError("one answer only", param="n")
        async for event in super().generate(request):
            yield event


class TestDeclaredAndRefused(Contract):
    __test__ = True
    deadline_s = 30
    broken = RefusesN
    cannot = frozenset(("n",))


@breaks("test_n_answers_each_have_their_end")
class DoesWhatItSaysItCanNot(Broken):
    cannot = frozenset(("n",))


@breaks("test_n_answers_each_have_their_end")
class RefusesWithoutSayingWhat(RefusesN):
    async def generate(self, request):
        if request.n > 1:
            raise EngineUnavailableError("no")
        async for event in super().generate(request):
            yield event


@breaks(ORDER)
class CountsNothing(Broken):
    def stats(self):
        return EngineStats()


@breaks("test_a_generation_that_was_never_begun_takes_nothing")
class TakesASlotTooEarly(Broken):
    num_begun = 0

    def generate(self, request):
        self.num_begun += 1
        return super().generate(request)

    def stats(self):
        stats = super().stats()
        stats.num_running = self.num_begun - stats.num_finished - stats.num_cancelled
        return stats


@breaks("test_prompts_are_text_or_token_ids")
class CountsIdsWrongly(Broken):
    async def spoil(self, request, events):
        async for event in events:
            if not isinstance(request.prompt, str | None) and isinstance(event, Accepted):
                event = Accepted(7)
            yield event
