"""Embedding engines: the contract of engines, what is refused, and how requests share the encoder."""

from __future__ import annotations

import asyncio
import time

import pytest

from llmapi_kit.config import Settings
from llmapi_kit.engines.base import EmbeddingRequest, GenerationRequest, ScoreRequest, Truncation
from llmapi_kit.errors import (
    ContextLengthError,
    EngineUnavailableError,
    GenerationError,
    InvalidRequestError,
    QueueFullError,
    RequestTimeoutError,
    UnsupportedFieldError,
)

from .conftest import FakeEncoder, make_tokenizer

DEADLINE_S = 60


def run(work):
    return asyncio.run(asyncio.wait_for(work, DEADLINE_S))


async def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)


def words(number, word="w1"):
    return " ".join([word] * number)


def test_vectors_come_in_the_order_of_the_inputs_whatever_their_lengths(engine_of):
    encoder = FakeEncoder(num_workers=2, batch_tokens=20)
    engine = engine_of(encoder)
    texts = [words(length, f"w{length}") for length in (9, 1, 14, 3, 14, 2, 8)]
    embedded = run(engine.embed([*texts, [3, 4]]))
    ids = [make_tokenizer().encode(text).ids for text in texts] + [[3, 4]]
    assert [list(each.vector) for each in embedded] == [encoder.vector(each) for each in ids]
    assert [each.num_prompt_tokens for each in embedded] == [11, 3, 16, 5, 16, 4, 10, 2]
    assert all(len(batch) * max(len(each.ids) for each in batch) <= 20 for batch in encoder.batches)
    assert encoder.num_started == 2
    assert engine.stats().num_finished == 1
    assert engine.stats().num_prompt_tokens == sum(map(len, ids))
    assert run(engine.embed([])) == []


def test_it_writes_no_text_and_says_what_to_use(engine_of):
    embedding, reranker = engine_of(), engine_of(capabilities=("rerank",))
    messages = [{"role": "user", "content": "hello"}]
    for engine, hint in ((embedding, "/v1/embeddings"), (reranker, "/v1/rerank")):
        for param, request in {
            "messages": GenerationRequest(messages=messages),
            "prompt": GenerationRequest(prompt="hello"),
        }.items():
            with pytest.raises(UnsupportedFieldError, match=f"writes no text. Use POST {hint}") as caught:
                run(anext(engine.generate(request)))
            assert caught.value.param == param
        with pytest.raises(UnsupportedFieldError, match="writes no text"):
            run(engine.tokenize_chat(GenerationRequest(messages=messages)))
    with pytest.raises(UnsupportedFieldError, match="is a reranker and makes no embeddings"):
        run(reranker.embed(["hello"]))


def test_tokens_go_there_and_back(engine_of):
    engine = engine_of()
    ids = run(engine.tokenize("one two", add_special_tokens=True))
    assert run(engine.detokenize(ids)) == "[CLS] one two [SEP]"
    with pytest.raises(InvalidRequestError, match="token id 1000000"):
        run(engine.detokenize([10**6]))


def test_a_long_input_is_refused_by_name_unless_the_request_says_to_cut_it(engine_of):
    engine = engine_of()
    long = "w1 " + words(20, "w2") + " w3"
    with pytest.raises(
        ContextLengthError, match=r"16 tokens at most; input\.1 has 24.*truncate_prompt_tokens=-1"
    ) as caught:
        run(engine.embed(["w1", long]))
    assert caught.value.param == "input.1"

    def cut(truncation, text=long):
        request = EmbeddingRequest(inputs=[text], truncation=truncation)
        (embedded,) = run(engine.embed_request(request))
        return embedded

    whole = {side: make_tokenizer() for side in ("left", "right")}
    for side, tokenizer in whole.items():
        tokenizer.enable_truncation(16, direction=side)
    vector = engine._loop._encoder.vector
    assert list(cut(Truncation()).vector) == vector(whole["right"].encode(long).ids)
    assert list(cut(Truncation(side="start")).vector) == vector(whole["left"].encode(long).ids)
    assert cut(Truncation(5)).num_prompt_tokens == 5
    assert list(cut(Truncation(3, "start"), list(range(3, 13))).vector) == vector([10, 11, 12])
    assert cut(Truncation(), "w1").num_prompt_tokens == 3
    for truncation, message in ((Truncation(17), "16 tokens at most"), (Truncation(1), "no room")):
        with pytest.raises(InvalidRequestError, match=message) as refused:
            cut(truncation)
        assert refused.value.param == "truncate_prompt_tokens"


@pytest.mark.parametrize("inputs", [[[]], [[3, 10**6]], [[-1]]])
def test_token_ids_that_can_not_be_are_refused(engine_of, inputs):
    with pytest.raises(InvalidRequestError, match=r"input\.0"):
        run(engine_of().embed(inputs))


def test_prompts_stand_before_texts_by_name_and_are_pooled_or_not(engine_of):
    prompts = {"query": "w7 w8 ", "document": ""}
    engine = engine_of(prompts=prompts, default_prompt="query", pools_prompt=False)

    def sent(**fields):
        run(engine.embed_request(EmbeddingRequest(inputs=["w1"], **fields)))
        return engine._loop._encoder.batches[-1][0]

    assert sent().ids == make_tokenizer().encode("w7 w8 w1").ids
    assert sent().num_unpooled == 3  # [CLS] too
    assert sent(prompt_name="document") == sent(prompt_name="")
    assert sent(prompt_name="").num_unpooled == 0
    with pytest.raises(InvalidRequestError, match=r"prompt_name is 'task'; this model has 'query', 'document'"):
        sent(prompt_name="task")


def test_a_reranker_reads_both_texts_together_and_an_embedding_model_compares_vectors(engine_of):
    reranker = engine_of(FakeEncoder(size=1), capabilities=("rerank",))
    pairs = [("one", "two three"), ("one", "three")]
    scores = run(reranker.score(ScoreRequest(pairs=pairs)))
    sent = [each for batch in reranker._loop._encoder.batches for each in batch]
    assert {tuple(each.ids) for each in sent} == {tuple(make_tokenizer().encode(*pair).ids) for pair in pairs}
    assert all(sorted(set(each.type_ids)) == [0, 1] for each in sent)
    assert [each.num_tokens for each in scores] == [6, 5]

    engine = engine_of(prompts={"query": "w7 ", "passage": "w8 "})
    scores = run(engine.score(ScoreRequest(pairs=[("one", "one"), ("one", "two"), ("two", "two")])))
    sent = sorted(tuple(each.ids) for batch in engine._loop._encoder.batches for each in batch)
    texts = ("w7 one", "w7 two", "w8 one", "w8 two")
    assert sent == sorted(tuple(make_tokenizer().encode(text).ids) for text in texts), "each text once"
    assert all(-1 <= each.value <= 1.000001 for each in scores)


def test_documents_and_pairs_are_cut_only_where_that_was_asked_for(engine_of):
    reranker = engine_of(FakeEncoder(size=1), capabilities=("rerank",))
    pairs = [("one", "two"), ("one", words(30))]
    with pytest.raises(ContextLengthError, match=r"documents\.1 has 34"):
        run(reranker.score(ScoreRequest(pairs=pairs)))
    cut = run(reranker.score(ScoreRequest(pairs=pairs, truncation=Truncation())))
    assert [each.num_tokens for each in cut] == [5, 16]
    cut = run(reranker.score(ScoreRequest(pairs=pairs, max_document_tokens=4)))
    assert [each.num_tokens for each in cut] == [5, 8]


def test_a_broken_text_fails_its_own_request_only(engine_of):
    engine = engine_of(FakeEncoder(fails_on=20, batch_tokens=64))
    encoder = engine._loop._encoder
    encoder.may_go.clear()

    async def main():
        first = asyncio.ensure_future(engine.embed(["w1"]))
        await asyncio.to_thread(encoder.entered.wait, DEADLINE_S)
        good, bad = asyncio.ensure_future(engine.embed([[3, 4]])), asyncio.ensure_future(engine.embed([[20, 4]]))
        await until(lambda: engine.stats().num_queued == 2)
        encoder.may_go.set()
        return await asyncio.gather(first, good, bad, return_exceptions=True)

    first, good, bad = run(main())
    assert isinstance(bad, GenerationError)
    assert "a broken text" in bad.message
    assert list(good[0].vector) == encoder.vector([3, 4])
    assert len(first) == 1
    assert (engine.stats().num_failed, engine.stats().num_finished) == (1, 2)


def test_a_short_request_does_not_wait_for_a_long_one_to_end(engine_of):
    engine = engine_of(FakeEncoder(batch_tokens=10))
    encoder = engine._loop._encoder
    encoder.may_go.clear()

    async def main():
        long = asyncio.ensure_future(engine.embed([words(8)] * 40))
        await asyncio.to_thread(encoder.entered.wait, DEADLINE_S)
        short = asyncio.ensure_future(engine.embed(["w1"]))
        await until(lambda: engine.stats().num_queued == 1)
        encoder.may_go.set()
        await asyncio.gather(long, short)

    run(main())
    (place,) = (at for at, batch in enumerate(encoder.batches) if len(batch[0].ids) == 3)
    assert place <= 2
    assert len(encoder.batches) == 41


def test_a_full_queue_is_a_429_but_for_a_key_that_has_less_than_its_share(engine_of):
    engine = engine_of(settings=Settings(max_queue=2))
    encoder = engine._loop._encoder
    encoder.may_go.clear()

    async def ask(key):
        return await engine.embed_request(EmbeddingRequest(inputs=["w1"], key_id=key))

    async def main():
        waiting = [asyncio.ensure_future(ask("a"))]
        await asyncio.to_thread(encoder.entered.wait, DEADLINE_S)
        waiting += [asyncio.ensure_future(ask("a")) for _ in range(2)]
        await until(lambda: engine.stats().num_queued == 2)
        with pytest.raises(QueueFullError) as caught:
            await ask("a")
        assert caught.value.retry_after_s
        waiting.append(asyncio.ensure_future(ask("b")))
        await until(lambda: engine.stats().num_queued == 3)
        encoder.may_go.set()
        return await asyncio.gather(*waiting)

    assert len(run(main())) == 4


def test_a_cancelled_request_is_not_computed(engine_of):
    engine = engine_of()
    encoder = engine._loop._encoder
    encoder.may_go.clear()

    async def main():
        first = asyncio.ensure_future(engine.embed(["w1"]))
        await asyncio.to_thread(encoder.entered.wait, DEADLINE_S)
        second = asyncio.ensure_future(engine.embed(["w2"]))
        await until(lambda: engine.stats().num_queued == 1)
        second.cancel()
        await until(second.done)
        encoder.may_go.set()
        await first
        await engine.embed(["w3"])

    run(main())
    assert len(encoder.batches) == 2
    assert engine.stats().num_cancelled == 1
    assert engine.stats().num_running == engine.stats().num_queued == 0


def test_who_waits_too_long_for_a_turn_is_told_so(engine_of):
    engine = engine_of(settings=Settings(queue_timeout_s=0.05))
    encoder = engine._loop._encoder
    encoder.may_go.clear()

    async def main():
        first = asyncio.ensure_future(engine.embed(["w1"]))
        await asyncio.to_thread(encoder.entered.wait, DEADLINE_S)
        second = asyncio.ensure_future(engine.embed(["w2"]))
        await until(lambda: engine.stats().num_queued == 1)
        await asyncio.sleep(0.1)  # the time itself is what is waited for
        encoder.may_go.set()
        await first
        with pytest.raises(RequestTimeoutError, match="for its turn"):
            await second

    run(main())


def test_closing_ends_what_waits_in_an_error_and_gives_the_encoder_back(engine_of):
    engine = engine_of()
    encoder = engine._loop._encoder
    encoder.may_go.clear()

    async def main():
        first = asyncio.ensure_future(engine.embed(["w1"]))
        await asyncio.to_thread(encoder.entered.wait, DEADLINE_S)
        second = asyncio.ensure_future(engine.embed(["w2"]))
        await until(lambda: engine.stats().num_queued == 1)
        closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
        await until(lambda: not engine.readiness().ready)
        encoder.may_go.set()
        await closing
        with pytest.raises(EngineUnavailableError, match="unloaded"):
            await second
        assert len(await first) == 1

    run(main())
    assert encoder.is_closed
    with pytest.raises(EngineUnavailableError):
        run(engine.embed(["w1"]))
    engine.close()
