"""Simulated clusters follow theory where there is one, and lose nobody. A run has a seed: it is the same each time."""

from __future__ import annotations

import json
import math
import random

import pytest
import simpy

from benchmarks import cluster_simulation
from benchmarks.cluster_study import Study, loss_of, summarize
from benchmarks.engine_costs import MEASURED_RATES, EngineCosts, fit, with_measured_overhead
from benchmarks.simulated_cluster import Talk, at_random, by_prefix, least_loaded, simulate
from benchmarks.simulated_replica import End, Limits, Replica, Request

pytestmark = pytest.mark.slow

COSTS = EngineCosts(step_s=0.01, token_s=0.001)
ONE_S = EngineCosts(step_s=1.0, token_s=1e-12)
ANY_QUEUE = 10**9


def submit(env, replica, conversation=0, prompt=1, answer=1, shared=0):
    request = Request(conversation, prompt, answer, env.event(), shared_tokens=shared)
    replica.submit(request)
    return request


def open_queue(num_servers, draw_steps, rate, num):
    """Mean wait for a slot where requests come at random, in steps of a second."""
    env, numbers, waits = simpy.Environment(), random.Random(0), []
    replica = Replica(env, ONE_S, Limits(max_slots=num_servers, max_queue=ANY_QUEUE))

    def come():
        requests = []
        for _ in range(num):
            yield env.timeout(numbers.expovariate(rate))
            requests.append((env.now, submit(env, replica, answer=draw_steps(numbers))))
        yield requests[-1][1].ended
        waits.extend(request.first_token_s - 1 - came_s for came_s, request in requests if request.first_token_s)

    env.run(until=env.process(come()))
    return sum(waits) / len(waits)


def test_one_slot_and_equal_answers_wait_as_in_an_m_d_1_queue():
    service_s, use = 20, 0.7
    wait = open_queue(1, lambda numbers: service_s, rate=use / service_s, num=60_000)
    assert wait == pytest.approx(use * service_s / (2 * (1 - use)), rel=0.05)


def test_several_slots_and_random_answers_wait_as_in_an_m_m_c_queue():
    """Erlang's C. Answers are of whole steps, so half a step on the way in is theory's, too."""
    servers, service_s, use = 4, 200, 0.8
    load = servers * use
    last = load**servers / math.factorial(servers) / (1 - use)
    busy = last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)
    wait = open_queue(
        servers, lambda numbers: max(1, round(numbers.expovariate(1 / service_s))), rate=load / service_s, num=40_000
    )
    assert wait == pytest.approx(busy * service_s / (servers * (1 - use)), rel=0.1)


def test_people_who_talk_obey_littles_law():
    talk, num, until_s = Talk(), 60, 4000.0
    record = simulate(num, 4, costs=COSTS, until_s=until_s, talk=talk)
    done = [each for each in record.questions if each.end is End.DONE]
    mean_think_s = talk.think_s * math.exp(talk.think_sigma**2 / 2)
    mean_answer_s = sum(each.ended_s - each.asked_s for each in done) / len(done)
    assert len(done) / until_s * (mean_think_s + mean_answer_s) == pytest.approx(num, rel=0.03)


def test_costs_are_the_line_through_what_was_measured():
    exact = {num: num / COSTS.step_time_s(num) for num in (1, 8, 32)}
    assert fit(exact) == EngineCosts(pytest.approx(0.01), pytest.approx(0.001))
    for num, rate in MEASURED_RATES.items():
        assert num / fit(MEASURED_RATES).step_time_s(num) == pytest.approx(rate, rel=0.03)
    for none in ({1: 50.0}, {1: 50.0, 8: 40.0}, {1: 50.0, 8: 1e9}):
        with pytest.raises(ValueError, match="rates"):
            fit(none)


def test_overhead_is_the_measured_one_where_it_is_there(tmp_path):
    path = tmp_path / "cluster.json"
    assert "assumed" in with_measured_overhead(COSTS, path)[1]
    for measured_s, overhead_s in ((0.003, 0.003), (-0.001, 0.0)):
        path.write_text(json.dumps({"request_overhead_s": measured_s, "router_overhead_s": 0.001}))
        costs, source = with_measured_overhead(COSTS, path)
        assert (costs.overhead_s, "measured" in source) == (overhead_s, True)


def test_a_step_is_slower_with_more_answers_in_it_and_each_is_whole():
    env = simpy.Environment()
    replica = Replica(env, COSTS, Limits())
    requests = [submit(env, replica, answer=11) for _ in range(4)]
    env.run()
    # The first step has four prompts of a token, each of the ten others four answers
    assert env.now == pytest.approx(11 * COSTS.step_time_s(4))
    assert [request.first_token_s for request in requests] == [pytest.approx(COSTS.step_time_s(4))] * 4
    assert {request.ended.value for request in requests} == {End.DONE}


def test_who_comes_within_a_stretch_joins_at_the_next_step():
    env = simpy.Environment()
    replica = Replica(env, COSTS, Limits())
    submit(env, replica, answer=100)
    env.run(until=COSTS.step_time_s(1) * 4.5)
    late = submit(env, replica, answer=1)
    env.run()
    assert late.first_token_s == pytest.approx(5 * COSTS.step_time_s(1) + COSTS.step_time_s(2))
    assert env.now == pytest.approx(99 * COSTS.step_time_s(1) + COSTS.step_time_s(2))


def test_long_prompts_are_computed_in_chunks_beside_answers():
    env = simpy.Environment()
    limits = Limits(step_tokens=64, max_stall_s=0.02)  # 20 tokens beside an answer
    replica = Replica(env, COSTS, limits)
    submit(env, replica, answer=3)
    env.run(until=0.001)
    long = submit(env, replica, 1, prompt=40)
    env.run()
    assert long.first_token_s == pytest.approx(COSTS.step_time_s(1) + 2 * COSTS.step_time_s(21))


@pytest.mark.parametrize(
    ("limits", "cached"),
    [(Limits(), [9, 109, 109]), (Limits(cache_tokens=200), [9, 9, 109])],
    ids=["both kept", "the older one left"],
)
def test_a_next_turn_computes_what_is_new_unless_it_was_pushed_out(limits, cached):
    env = simpy.Environment()
    replica = Replica(env, COSTS, limits)
    found = []
    for conversation, prompt in ((0, 100), (1, 100), (0, 150), (1, 150)):
        found.append(submit(env, replica, conversation, prompt=prompt, answer=9, shared=9))
        env.run()
    assert [found[0].cached_tokens, found[2].cached_tokens] == cached[:2]


def test_the_last_token_of_a_prompt_is_always_computed():
    env = simpy.Environment()
    replica = Replica(env, COSTS, Limits())
    request = submit(env, replica, prompt=5, shared=50)
    env.run()
    assert request.cached_tokens == 4


def with_load(*loads):
    env = simpy.Environment()
    replicas = [Replica(env, COSTS, Limits()) for _ in loads]
    for replica, load in zip(replicas, loads, strict=True):
        for _ in range(load):
            submit(env, replica)
    return replicas


@pytest.mark.parametrize(("loads", "chosen"), [((4, 0), 0), ((5, 0), 1), ((0, 0), 0)])
def test_a_conversation_stays_unless_its_replica_has_much_more_to_do(loads, chosen):
    replicas = with_load(*loads)
    assert by_prefix(4)(replicas, replicas[0], random.Random(0)) is replicas[chosen]
    assert by_prefix(4)(replicas[1:], replicas[0], random.Random(0)) is replicas[1], "full ones are not asked"


def test_other_routers_look_at_the_load_or_at_nothing():
    replicas = with_load(3, 1, 2)
    numbers = random.Random(0)
    assert {least_loaded(replicas, replicas[0], numbers) for _ in range(20)} == {replicas[1]}
    assert {at_random(replicas, None, numbers) for _ in range(50)} == set(replicas)


def test_the_same_seed_is_the_same_run_and_another_one_is_not():
    def times(seed):
        return [each.ended_s for each in simulate(20, 2, costs=COSTS, until_s=200, seed=seed).questions]

    assert times(1) == times(1)
    assert times(1) != times(2)


def test_prefix_routing_finds_more_in_caches_than_others():
    rates = {}
    for name, router in (("prefix", by_prefix(16)), ("least", least_loaded), ("random", at_random)):
        record = simulate(100, 4, costs=COSTS, until_s=400, router=router)
        rates[name] = summarize(record, 200, 400).hit_rate
    assert rates["prefix"] > 0.9 > max(rates["least"], rates["random"])


def test_who_comes_to_a_full_cluster_is_told_to_come_back_and_is_answered():
    talk = Talk(think_s=1.0)
    record = simulate(30, 1, costs=COSTS, until_s=300, talk=talk, limits=Limits(max_slots=4, max_queue=0))
    assert len(record.refused_s) > 100
    waited = [each for each in record.questions if each.end is End.DONE and each.ttft_s(300) > talk.retry_s]
    assert len(waited) > 10


@pytest.fixture(scope="module")
def lost_zone():
    """Of nine replicas that are busy, three go at 100 s."""
    zone = {"zone_lost_at_s": 100.0, "zone_back_after_s": 50.0}
    return simulate(300, 9, costs=COSTS, until_s=300, router=by_prefix(16), **zone)


def test_a_lost_zone_breaks_streams_and_asks_the_rest_again_and_loses_nobody(lost_zone):
    ends = [each.end for each in lost_zone.questions]
    assert ends.count(End.BROKEN) > 0
    assert set(lost_zone.again_s) <= {100.0}
    assert {each.ended_s for each in lost_zone.questions if each.end is End.BROKEN} == {100.0}
    early = [each for each in lost_zone.questions if each.asked_s < 150]
    assert [each for each in early if each.end is None] == [], "each question has an end"


def test_what_a_lost_zone_costs_is_found_in_the_record(lost_zone):
    loss = loss_of(lost_zone, 100.0, 300.0)
    assert loss.broken == sum(each.end is End.BROKEN for each in lost_zone.questions)
    assert loss.again == len(lost_zone.again_s)
    assert loss.worst_p95_s > summarize(lost_zone, 50, 100).p50_s
    assert 0 <= loss.recovered_s < 200


def test_who_waits_at_the_end_counts_with_how_long():
    record = simulate(200, 1, costs=COSTS, until_s=100, talk=Talk(think_s=1.0), limits=Limits(max_slots=1))
    summary = summarize(record, 20, 100)
    assert summary.p99_s > 30
    assert not summary.is_good


def test_a_replica_serves_as_many_well_as_are_found_and_no_more():
    study = Study(COSTS, Limits(), Talk(), warm_up_s=50, measured_s=100, repeats=1)
    found = study.most_people(2, by_prefix(16), seed=0)
    assert study.summary(2 * found, 2, by_prefix(16)).is_good
    assert not study.summary(2 * math.ceil(found * 1.05), 2, by_prefix(16)).is_good


def test_the_report_answers_each_question(tmp_path, capsys):
    assert cluster_simulation.main(["--quick", "--repeats", "1", "--results", str(tmp_path)]) == 0
    report = (tmp_path / "cluster_simulation.md").read_text()
    assert report in capsys.readouterr().out
    for said in ("| 10,000 |", "| 1,000,000 |", "least loaded", "429s", "Served well after", "is assumed"):
        assert said in report
    tables = json.loads((tmp_path / "cluster_simulation.json").read_text())["tables"]
    assert all(len(row) == len(table["header"]) for table in tables for row in table["rows"])
    assert len(tables) == 5
