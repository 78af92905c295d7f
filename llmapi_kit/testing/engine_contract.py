"""The tests that every engine has to pass, as a class to inherit from.

Plain pytest, without plugins: each test runs an event loop of its own, within a deadline.
"""

# ruff: noqa: D102, S101 - a test's name is its documentation, and asserts are how it speaks

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmapi_kit.engines.base import Embedder, Engine, GenerationRequest, ImageEngine, ScoreRequest
from llmapi_kit.engines.engine_check import find_problems
from llmapi_kit.errors import (
    ContextLengthError,
    EngineUnavailableError,
    InvalidRequestError,
    RequestError,
    UnsupportedFieldError,
)
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.testing.events import answers_of, check_events, collect
from llmapi_kit.types import Accepted, Delta, Event, Failed, Finished, ImageRequest

T = TypeVar("T")
Ability = Literal["n", "stop", "max_tokens", "token_ids", "tokenize", "token_counts", "same_answer"]

# Words that most tokenizers know, in several scripts, and stranger things
TEXTS = st.lists(st.sampled_from(["one", "two", "three", "été", "你好", "🙂", "a\nb", "{}"]), min_size=1, max_size=12)


class EngineContract:
    """Inherit, override `make_engine`, and name the class ``Test…``: pytest finds the tests.

    What an engine can't do is declared, not skipped: each such test then asserts that the engine refuses it by name.
    Conversations, prompts and embeddings follow `EngineInfo.capabilities`.

    Attributes:
        cannot: ``n`` (several answers), ``stop``, ``max_tokens``, ``token_ids`` (as a prompt), ``tokenize``: each is
            refused with an `InvalidRequestError`. ``token_counts``: it does not know how many tokens a piece has.
            ``same_answer``: the same question at temperature 0 may be answered otherwise.
        deadline_s: how long a test may take.
        num_examples: how many requests Hypothesis makes up.
    """

    cannot: ClassVar[frozenset[Ability]] = frozenset()
    deadline_s: ClassVar[float] = 30.0
    num_examples: ClassVar[int] = 25

    # What to override

    def make_engine(self) -> Engine:
        """A fresh engine; the test closes it. Its answer depends on the question; to a long one it has ten tokens."""
        raise NotImplementedError("override make_engine()")  # which engine it is, only whoever inherits knows

    def request(self, engine: Engine, text: str = "one two three", *, n: int = 1, **sampling: Any) -> GenerationRequest:
        """A question; a conversation where the engine holds one."""
        params = SamplingParams(**{"temperature": 0, **sampling})
        if "chat" in engine.info.capabilities:
            messages = [{"role": "user", "content": text}]
            return GenerationRequest(messages=messages, sampling=params, n=n)
        return GenerationRequest(prompt=text, sampling=params, n=n)

    def long_request(self, engine: Engine) -> GenerationRequest:
        """A question whose answer takes long enough to be interrupted: some tenths of a second."""
        return self.request(engine, "a b c " * 10, max_tokens=self.limit(150))

    # The tests

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        """The engine under test."""
        made = self.make_engine()
        yield made
        made.close()

    def test_it_has_all_that_an_engine_has(self, engine: Engine) -> None:
        assert list(find_problems(engine)) == []
        assert isinstance(engine, Engine)
        assert engine.readiness().ready, engine.readiness().reason
        assert engine.info == engine.info

    def test_events_come_in_order_with_one_end(self, engine: Engine) -> None:
        request = self.request(engine)
        events = self.ask(engine, request)
        check_events(request, events, counts_tokens=self.counts_tokens)
        assert answers_of(events)[0]
        assert isinstance(events[-1], Finished), events[-1]
        assert engine.stats().num_finished == 1

    def test_at_most_max_tokens_are_made(self, engine: Engine) -> None:
        for limit in (7, 1):
            request = self.request(engine, "a b c " * 10, max_tokens=limit)
            if not self.can("max_tokens", "max_tokens", engine, request):
                return
            events = self.ask(engine, request)
            check_events(request, events, counts_tokens=self.counts_tokens)
            end = events[-1]
            assert isinstance(end, Finished)
            assert end.reason == "length", end
            if self.counts_tokens:
                assert end.num_completion_tokens == limit, end

    def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(self, engine: Engine) -> None:
        if not self.can("stop", "stop", engine, self.request(engine, stop=("x",))):
            return
        whole = answers_of(self.ask(engine, self.request(engine, max_tokens=self.limit(8))))[0]
        for start, length in ((1, 3), (len(whole) // 2, 2), (len(whole) - 1, 1)):
            stop = whole[start : start + length]
            request = self.request(engine, max_tokens=self.limit(8), stop=(stop, "\N{SNOWMAN}" * 9))
            events = self.ask(engine, request)
            check_events(request, events, counts_tokens=self.counts_tokens)
            if "same_answer" not in self.cannot:
                assert answers_of(events)[0] == whole[: whole.index(stop)]
                assert isinstance(events[-1], Finished)
                assert events[-1].reason == "stop", events[-1]

    def test_n_answers_each_have_their_end(self, engine: Engine) -> None:
        request = self.request(engine, n=3, max_tokens=self.limit(5))
        if not self.can("n", "n", engine, request):
            return
        events = self.ask(engine, request)
        check_events(request, events, counts_tokens=self.counts_tokens)
        assert sum(isinstance(event, Finished) for event in events) == 3
        assert all(answers_of(events, 3))

    def test_prompts_are_text_or_token_ids(self, engine: Engine) -> None:
        sampling = self.request(engine, max_tokens=self.limit(3)).sampling
        text = GenerationRequest(prompt="one two", sampling=sampling)
        if "completions" not in engine.info.capabilities:
            self.assert_refused(engine, text, "prompt")
            return
        check_events(text, self.ask(engine, text), counts_tokens=self.counts_tokens)
        ids = GenerationRequest(prompt=[3, 4], sampling=sampling)
        if self.can("token_ids", "prompt", engine, ids):
            events = self.ask(engine, ids)
            check_events(ids, events, counts_tokens=self.counts_tokens)
            assert not self.counts_tokens or events[0] == Accepted(2), events[0]

    def test_conversations_are_held_or_refused(self, engine: Engine) -> None:
        request = GenerationRequest(messages=[{"role": "user", "content": "hello"}])
        if "chat" not in engine.info.capabilities:
            self.assert_refused(engine, request, "messages")

    def test_too_long_a_prompt_is_refused_before_it_is_queued(self, engine: Engine) -> None:
        if not engine.info.context_length:
            return  # there is no limit to be over
        request = self.request(engine, "word " * (engine.info.context_length + 1))
        error = self.refusal(engine, request)
        assert isinstance(error, ContextLengthError), error
        assert error.param in ("messages", "prompt")
        assert error.code == "context_length_exceeded"
        assert engine.stats().num_queued == engine.stats().num_running == 0

    def test_many_at_once_get_what_each_gets_alone(self, engine: Engine) -> None:
        questions = [f"question {i} " * (1 + i % 5) for i in range(12)]

        async def one(question: str) -> str:
            request = self.request(engine, question, max_tokens=self.limit(9))
            events = await collect(engine.generate(request))
            check_events(request, events, counts_tokens=self.counts_tokens)
            return answers_of(events)[0]

        async def main() -> tuple[list[str], list[str]]:
            alone = [await one(question) for question in questions]
            return alone, await asyncio.gather(*map(one, questions))

        alone, together = self.run(main())
        if "same_answer" not in self.cannot:
            assert alone == together
        assert len(set(together)) > 1, "every question gets the same answer"

    def test_it_serves_several_event_loops_at_once(self, engine: Engine) -> None:
        def in_own_loop(question: str) -> str:
            return answers_of(self.ask(engine, self.request(engine, question, max_tokens=self.limit(5))))[0]

        async def main() -> list[str]:
            return await asyncio.gather(*(asyncio.to_thread(in_own_loop, q) for q in ("a b", "c d", "a b")))

        first, second, third = self.run(main())
        if "same_answer" not in self.cannot:
            assert first == third != second

    def test_closing_the_generator_stops_the_generation(self, engine: Engine) -> None:
        async def main() -> None:
            events = engine.generate(self.long_request(engine))
            async for event in events:
                assert not isinstance(event, Finished | Failed), "it was over at once: override long_request()"
                if isinstance(event, Delta):
                    break
            await events.aclose()
            await events.aclose()
            await self.until(lambda: engine.stats().num_running == 0, "a slot stays taken")
            assert engine.stats().num_cancelled == 1

        self.run(main())

    def test_cancelling_the_task_stops_the_generation(self, engine: Engine) -> None:
        async def main() -> None:
            task = asyncio.create_task(collect(engine.generate(self.long_request(engine))))
            await self.until(lambda: engine.stats().num_running == 1 or task.done(), "it was never running")
            assert not task.done(), "it was over at once: override long_request()"
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled(), "the cancellation was swallowed"
            await self.until(lambda: engine.stats().num_running == 0, "a slot stays taken")

        self.run(main())

    def test_a_generation_that_was_never_begun_takes_nothing(self, engine: Engine) -> None:
        async def main() -> None:
            await engine.generate(self.request(engine)).aclose()
            assert engine.stats().num_running == engine.stats().num_queued == 0

        self.run(main())

    def test_closing_the_engine_ends_requests_in_an_error(self, engine: Engine) -> None:
        request = self.long_request(engine)

        async def main() -> list[Event]:
            events = engine.generate(request)
            seen = [await anext(events), await anext(events)]
            await asyncio.to_thread(engine.close)
            return seen + await collect(events)

        events = self.run(main())
        assert isinstance(events[-1], Failed | Finished), f"the last event is {events[-1]!r}"
        if isinstance(events[-1], Failed):
            assert isinstance(events[-1].error, EngineUnavailableError), events[-1]
        assert all(isinstance(event, Delta) for event in events[1:-1])
        assert not engine.readiness().ready
        assert engine.readiness().reason

    def test_a_closed_engine_takes_nothing(self, engine: Engine) -> None:
        request = self.request(engine)
        engine.close()
        engine.close()
        assert isinstance(self.refusal(engine, request), EngineUnavailableError)
        if "embeddings" in engine.info.capabilities:
            with pytest.raises(EngineUnavailableError):
                self.run(engine.embed(["one"]))

    def test_embeddings_are_vectors_of_length_1_or_refused(self, engine: Engine) -> None:
        if "embeddings" not in engine.info.capabilities:
            with pytest.raises(UnsupportedFieldError):
                self.run(engine.embed(["one"]))
            return
        texts = ["one two", "three", "four five", "six", "seven eight nine", "one two"]
        vectors = self.run(engine.embed(texts))
        assert [embedded.index for embedded in vectors] == list(range(len(texts)))
        for embedded in vectors:
            assert math.hypot(*embedded.vector) == pytest.approx(1, abs=1e-3)
            assert embedded.num_prompt_tokens > 0
        assert vectors[0].vector == pytest.approx(vectors[-1].vector, abs=1e-4)
        assert len({embedded.vector for embedded in vectors}) > 1, "every text has the same vector"
        assert len({len(embedded.vector) for embedded in vectors}) == 1

    def test_pairs_of_texts_are_scored_by_an_engine_that_says_so(self, engine: Engine) -> None:
        if "rerank" not in engine.info.capabilities:
            return  # nobody asks an engine that does not say it can
        assert isinstance(engine, Embedder)
        pairs = [("one two", "one two"), ("one two", "three"), ("four", "three")]
        scores = self.run(engine.score(ScoreRequest(pairs=pairs)))
        assert len(scores) == len(pairs)
        assert scores[0].value > scores[1].value, "the same text is no better than another"
        assert all(score.num_tokens >= 0 for score in scores)
        engine.close()
        with pytest.raises(EngineUnavailableError):
            self.run(engine.score(ScoreRequest(pairs=pairs)))

    def test_as_many_pictures_are_made_as_were_asked_for(self, engine: Engine) -> None:
        if "images" not in engine.info.capabilities:
            return  # nobody asks an engine that does not say it makes any
        assert isinstance(engine, ImageEngine)
        images = self.run(engine.generate_images(ImageRequest(prompt="a house", n=2)))
        assert len(images) == 2
        assert all(bool(image.url) != bool(image.data) for image in images), "exactly one of url and data is set"

    def test_tokenizing_there_and_back_gives_the_text(self, engine: Engine) -> None:
        if "tokenize" in self.cannot:
            for attempt in (engine.tokenize("one"), engine.detokenize([1]), engine.tokenize_chat(self.request(engine))):
                with pytest.raises(InvalidRequestError):
                    self.run(attempt)
            return
        ids = self.run(engine.tokenize("one two"))
        assert ids
        assert all(isinstance(token_id, int) for token_id in ids)
        assert self.run(engine.detokenize(ids)).strip() == "one two"
        with pytest.raises(InvalidRequestError):
            self.run(engine.detokenize([10**9]))
        request = self.request(engine, "one two", max_tokens=self.limit(2))
        accepted = self.ask(engine, request)[0]
        assert isinstance(accepted, Accepted)
        if request.messages is not None and self.counts_tokens:
            assert len(self.run(engine.tokenize_chat(request))) == accepted.num_prompt_tokens

    def test_whatever_is_asked_the_events_are_in_order(self, engine: Engine) -> None:
        """Requests made up by Hypothesis; one that is refused is refused before the first event."""
        several = st.just(1) if "n" in self.cannot else st.integers(1, 3)
        stops = st.just(()) if "stop" in self.cannot else st.lists(st.sampled_from(["o", "t", " ", "3>"]), max_size=2)
        limits = st.none() if "max_tokens" in self.cannot else st.integers(1, 12)

        @settings(
            max_examples=self.num_examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to shrink what a slow engine gets wrong would take minutes
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(TEXTS, several, limits, stops, st.sampled_from([0.0, 0.7, 1.5]), st.one_of(st.none(), st.integers(0, 9)))
        def check(
            words: list[str], n: int, limit: int | None, stop: list[str], temperature: float, seed: int | None
        ) -> None:
            made = {"max_tokens": limit, "stop": tuple(stop), "temperature": temperature, "seed": seed}
            request = self.request(engine, " ".join(words), n=n, **made)
            try:
                events = self.ask(engine, request)
            except InvalidRequestError:
                return
            check_events(request, events, counts_tokens=self.counts_tokens)

        check()
        assert engine.stats().num_running == 0

    # What the tests are made of

    @property
    def counts_tokens(self) -> bool:
        """Whether numbers of tokens are to add up."""
        return "token_counts" not in self.cannot

    def limit(self, num_tokens: int) -> int | None:
        """`max_tokens`, where the engine has it."""
        return None if "max_tokens" in self.cannot else num_tokens

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on an event loop of its own, within the deadline."""

        async def within_deadline() -> T:
            return await asyncio.wait_for(work, self.deadline_s)

        return asyncio.run(within_deadline())

    def ask(self, engine: Engine, request: GenerationRequest) -> list[Event]:
        """All events of a request."""
        return self.run(collect(engine.generate(request)))

    def refusal(self, engine: Engine, request: GenerationRequest) -> RequestError:
        """The error that a request is refused with, before its first event."""

        async def main() -> Event:
            events = engine.generate(request)
            try:
                return await anext(events)
            finally:
                await events.aclose()

        try:
            event = self.run(main())
        except RequestError as exc:
            return exc
        raise AssertionError(f"it was not refused but began with {event!r}")

    def assert_refused(self, engine: Engine, request: GenerationRequest, param: str) -> None:
        """Assert that a request is refused with an error that names the field."""
        error = self.refusal(engine, request)
        assert isinstance(error, InvalidRequestError), f"refused with {error!r}, which is not an InvalidRequestError"
        assert error.param == param, f"the error's param is {error.param!r}, not {param!r}"

    def can(self, ability: Ability, param: str, engine: Engine, request: GenerationRequest) -> bool:
        """Whether the engine has an ability; where it has not, asserts that it refuses the request by name."""
        if ability in self.cannot:
            self.assert_refused(engine, request, param)
            return False
        return True

    async def until(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Wait for something that another thread does, within the deadline."""
        deadline = time.monotonic() + self.deadline_s
        while not condition():
            assert time.monotonic() < deadline, otherwise
            await asyncio.sleep(0.005)
