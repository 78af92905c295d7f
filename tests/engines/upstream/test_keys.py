"""Keys in rotation, retries and the circuit breaker, against a live server and with a clock of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmapi_kit.checkpoints.providers import PROVIDERS
from llmapi_kit.engines.upstream.circuit_breaker import CircuitBreaker
from llmapi_kit.engines.upstream.key_pool import QUARANTINE_S, Key, KeyPool, read_keys
from llmapi_kit.errors import ConfigError, EngineUnavailableError, QueueFullError, RequestError, UpstreamError

from .conftest import ask, run
from .faulty import GOOD, chunk, error, events, hang, reset

THREE = "sk-first-11111111, sk-second-2222222,sk-third-33333333"
FIRST, SECOND, THIRD = (key.strip() for key in THREE.split(","))


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make_pool(clock, num_keys=3):
    keys = [Key(f"sk-{number}", f"key {number}") for number in range(num_keys)]
    return keys, KeyPool(keys, provider="p", advice="Check it.", clock=clock)


def test_keys_take_turns(clock):
    keys, pool = make_pool(clock)
    assert [pool.pick() for _ in range(6)] == keys * 2


def test_the_same_affinity_gets_the_same_key_while_it_is_well(clock):
    keys, pool = make_pool(clock)
    before = {name: pool.pick(name) for name in map(str, range(60))}
    assert set(before.values()) == set(keys)
    assert before == {name: pool.pick(name) for name in before}
    pool.cool_down(keys[1], 5)
    during = {name: pool.pick(name) for name in before}
    assert {name for name in before if before[name] is not during[name]} == {
        name for name in before if before[name] is keys[1]
    }
    clock.now += 5
    assert before == {name: pool.pick(name) for name in before}


def test_a_limited_key_rests_as_long_as_it_was_told(clock):
    keys, pool = make_pool(clock, 2)
    pool.cool_down(keys[0], 5)
    assert {pool.pick() for _ in range(4)} == {keys[1]}
    clock.now += 5
    assert {pool.pick() for _ in range(4)} == set(keys)


def test_a_refused_key_is_tried_again_after_some_minutes(clock):
    keys, pool = make_pool(clock, 1)
    pool.quarantine(keys[0])
    with pytest.raises(UpstreamError, match="Check it"):
        pool.pick()
    assert "refuses" in pool.problem()
    clock.now += QUARANTINE_S
    assert pool.pick() is keys[0]
    pool.cool_down(keys[0], 3)
    with pytest.raises(QueueFullError) as caught:  # now it rests for another reason
        pool.pick()
    assert caught.value.retry_after_s == 3


def test_keys_that_were_tried_are_not_picked_again(clock):
    keys, pool = make_pool(clock, 2)
    assert pool.pick(without=[keys[0]]) is keys[1]
    assert pool.pick(without=keys) is None


def test_a_key_shows_itself_to_nobody():
    (key,) = read_keys(PROVIDERS["openai"], FIRST)
    assert FIRST not in f"{key!r} {key} {key.label}"
    assert key.reveal() == FIRST


def test_keys_come_from_the_environment_with_commas_between(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{THREE},,{FIRST}")
    assert [key.reveal() for key in read_keys(PROVIDERS["openai"], None)] == [FIRST, SECOND, THIRD]


def test_no_key_at_all_names_the_variable():
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        read_keys(PROVIDERS["anthropic"], None)
    assert [key.reveal() for key in read_keys(PROVIDERS["ollama"], None)] == [""]


@pytest.mark.parametrize("bad", ["sk-ü", "sk a b", "sk-\x00"])
def test_a_key_that_can_not_be_sent_is_refused_without_showing_it(bad):
    with pytest.raises(ConfigError) as caught:
        read_keys(PROVIDERS["openai"], [bad])
    assert bad not in str(caught.value)


def test_a_limited_key_makes_way_for_the_next_one_at_once(upstream):
    server, engine = upstream(error(429, headers={"Retry-After": "60"}), events(*GOOD), api_key=THREE)
    assert run(engine)[0] == "one two"
    assert server.keys == [FIRST, SECOND]
    assert run(engine)[0] == run(engine)[0] == "one two"
    assert server.keys[2:] == [THIRD, SECOND]


def test_a_refused_key_makes_way_and_is_left_alone(upstream):
    server, engine = upstream(error(401), error(403), events(*GOOD), api_key=THREE)
    for _ in range(3):
        assert run(engine)[0] == "one two"
    assert server.keys == [FIRST, SECOND, THIRD, THIRD, THIRD]


def test_when_every_key_is_refused_it_is_not_asked_again(upstream):
    server, engine = upstream(error(401), api_key=THREE)
    for _ in range(2):
        with pytest.raises(UpstreamError, match="refuse"):
            run(engine)
    assert server.keys == [FIRST, SECOND, THIRD]
    assert not engine.readiness().ready
    assert "key" in engine.readiness().reason


@pytest.mark.slow
def test_a_conversation_stays_with_its_key(upstream):
    server, engine = upstream(events(*GOOD), api_key=THREE)
    for _ in range(3):
        run(engine, ask(affinity="a"))
    assert len(set(server.keys)) == 1
    for name in range(20):
        run(engine, ask(affinity=str(name)))
    assert set(server.keys) == {FIRST, SECOND, THIRD}


def test_a_short_wait_is_waited(upstream):
    server, engine = upstream(error(429, headers={"Retry-After": "0.05"}), events(*GOOD), upstream_retries=1)
    assert run(engine)[0] == "one two"
    assert len(server.asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("first", [error(500), error(503), reset, events("{"), events(), hang])
def test_an_upstream_that_fails_is_asked_again(upstream, first, monkeypatch):
    monkeypatch.setattr("llmapi_kit.engines.upstream.retry_policy.FIRST_PAUSE_S", 0.01)
    limits = {"upstream_answer_s": 1.0} if first is hang else {}
    server, engine = upstream(first, first, events(*GOOD), upstream_retries=2, **limits)
    text, _seen = run(engine)
    assert text == "one two"
    assert len(server.asked) == 3


@pytest.mark.parametrize("first", [error(400), error(404), error(413), error(422)])
def test_a_request_that_is_wrong_is_not_repeated(upstream, first):
    server, engine = upstream(first, api_key=THREE, upstream_retries=5)
    with pytest.raises(RequestError):
        run(engine)
    assert len(server.asked) == 1


def test_what_has_begun_is_not_repeated(upstream):
    server, engine = upstream(events(chunk("one")), events(*GOOD), upstream_retries=5)
    text, seen = run(engine)
    assert text == "one"
    assert isinstance(seen[-1].error, UpstreamError)
    assert len(server.asked) == 1


def test_retries_end_at_the_deadline(upstream):
    server, engine = upstream(error(500), upstream_retries=10, upstream_retry_s=0)
    with pytest.raises(UpstreamError):
        run(engine)
    assert len(server.asked) == 1


def test_closing_the_engine_ends_a_pause(upstream, monkeypatch):
    monkeypatch.setattr("llmapi_kit.engines.upstream.retry_policy.FIRST_PAUSE_S", 1.3)
    monkeypatch.setattr("llmapi_kit.engines.upstream.retry_policy.MAX_PAUSE_S", 60)
    server, engine = upstream(error(500), upstream_retries=10)
    failed = []

    def ask_it():
        try:
            run(engine)
        except RequestError as exc:
            failed.append(exc)

    thread = threading.Thread(target=ask_it)
    thread.start()
    while not server.asked:
        thread.join(0.005)
    engine.close()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(failed[0], EngineUnavailableError | UpstreamError)


def fail(circuit, times=1):
    for _ in range(times):
        with circuit.attempt() as attempt:
            attempt.failed()


def test_a_circuit_opens_after_failures_in_a_row(clock):
    circuit = CircuitBreaker("p", max_failures=3, open_s=10, clock=clock)
    fail(circuit, 2)
    circuit.completed()
    fail(circuit, 2)
    assert not circuit.problem()
    fail(circuit)
    assert "3 times" in circuit.problem()
    with pytest.raises(EngineUnavailableError) as caught:
        fail(circuit)
    assert caught.value.retry_after_s == 10


def test_an_open_circuit_lets_one_request_through_after_a_while(clock):
    circuit = CircuitBreaker("p", max_failures=1, open_s=10, clock=clock)
    fail(circuit)
    clock.now += 10
    with circuit.attempt() as probe:
        with pytest.raises(EngineUnavailableError):
            fail(circuit)
        probe.answered()
    fail_free = circuit.problem()
    assert not fail_free
    fail(circuit)  # closed again, so this one passes and opens it


def test_a_probe_that_fails_keeps_it_open_and_one_that_leaves_makes_room(clock):
    circuit = CircuitBreaker("p", max_failures=1, open_s=10, clock=clock)
    fail(circuit)
    clock.now += 10
    with circuit.attempt():
        pass  # cancelled, say: no verdict
    fail(circuit)
    with pytest.raises(EngineUnavailableError):
        fail(circuit)


def test_an_upstream_that_keeps_failing_is_left_alone(upstream):
    server, engine = upstream(error(500))
    for _ in range(5):
        with pytest.raises(UpstreamError):
            run(engine)
    with pytest.raises(EngineUnavailableError) as caught:
        run(engine)
    assert caught.value.retry_after_s > 0
    assert len(server.asked) == 5
    assert (engine.readiness().ready, "5 times" in engine.readiness().reason) == (False, True)


def test_answers_that_break_off_open_the_circuit_too(upstream):
    _server, engine = upstream(events(chunk("one")))
    for _ in range(5):
        run(engine)
    with pytest.raises(EngineUnavailableError):
        run(engine)


@pytest.mark.slow
@pytest.mark.parametrize("what", [400, 401, 404, 429])
def test_what_is_not_the_upstreams_fault_does_not_open_it(upstream, what):
    _server, engine = upstream(error(what, headers={"Retry-After": "0"}))
    for _ in range(8):
        with pytest.raises(RequestError):
            run(engine)
    assert not engine._circuit.problem()


def test_many_at_once_share_keys_without_a_mix_up(upstream):
    _server, engine = upstream(error(401), error(401), events(*GOOD), api_key=THREE, upstream_retries=2)

    async def main():
        from .conftest import collect

        return await asyncio.gather(*(collect(engine.generate(ask())) for _ in range(20)))

    assert {text for text, _ in asyncio.run(main())} == {"one two"}
