from __future__ import annotations

import os
import signal
import sys

import pytest

from llmapi_kit.errors import EngineUnavailableError
from llmapi_kit.sampling import grammar_trial
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.grammar_compiler import LIMITS
from llmapi_kit.sampling.grammar_source import grammar_text
from llmapi_kit.sampling.grammar_trial import GrammarTrial

FINE = grammar_text(Constraint("regex", "a+", "x"))
ENDLESS = grammar_text(Constraint("json_schema", '{"type":"integer","multipleOf":9999991}', "x"))


@pytest.fixture
def trial():
    trial = GrammarTrial(300, [(0, "<s>"), (7, "</s>")], [7], LIMITS)
    yield trial
    trial.close()


def process_of(trial):
    trial.fault_in(FINE)
    return trial._process


def test_one_process_tries_many_grammars(trial):
    first = process_of(trial)
    assert trial.fault_in(FINE) is None
    assert "unclosed" in trial.fault_in(grammar_text(Constraint("regex", "(", "x")))
    assert process_of(trial) is first


def test_special_tokens_are_known_by_name_and_number(trial):
    for grammar in ('start: <s> "a"', 'start: <[0]> "a"', 'start: <[290]> "a"'):
        assert trial.fault_in(grammar_text(Constraint("lark", grammar, "x"))) is None
    assert "ends the answer" in trial.fault_in(grammar_text(Constraint("lark", 'start: "a" </s>', "x")))


@pytest.mark.slow
def test_a_process_that_is_too_busy_is_ended_and_replaced(trial):
    before = process_of(trial)
    assert "longer than" in trial.fault_in(ENDLESS)
    assert before.poll() is not None
    assert process_of(trial) is not before


@pytest.mark.slow
def test_the_clock_ends_it_too():
    trial = GrammarTrial(300, [], [7], LIMITS, max_cpu_s=60, max_wall_s=0.5)
    try:
        assert "longer than" in trial.fault_in(ENDLESS)
    finally:
        trial.close()


@pytest.mark.slow
def test_a_process_that_was_idle_ends_by_itself_and_is_started_again():
    trial = GrammarTrial(300, [], [7], LIMITS, max_idle_s=0.2)
    try:
        before = process_of(trial)
        assert before.wait(timeout=30) == -signal.SIGALRM
        assert trial.fault_in(FINE) is None
    finally:
        trial.close()


def test_a_process_that_ends_for_idleness_just_when_asked_is_no_verdict(trial):
    before = process_of(trial)
    os.kill(before.pid, signal.SIGALRM)  # not yet waited for, so that the question is still sent
    assert trial.fault_in(FINE) is None


def test_an_interrupted_cell_does_not_interrupt_it(trial):
    assert os.getpgid(process_of(trial).pid) != os.getpgid(0)


def test_closing_ends_it(trial):
    process = process_of(trial)
    trial.close()
    trial.close()
    assert process.poll() is not None
    with pytest.raises(EngineUnavailableError):
        trial.fault_in(FINE)


def test_a_trial_that_is_forgotten_leaves_no_process():
    trial = GrammarTrial(300, [], [7], LIMITS)
    process = process_of(trial)
    del trial
    assert process.poll() is not None


def test_a_process_that_does_not_start_says_so(trial, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineUnavailableError, match="exit code 1"):
        trial.fault_in(FINE)


def test_no_key_of_the_environment_reaches_it(trial, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen = {}

    def popen(*args, env, **options):
        seen.update(env)
        raise OSError("not now")

    monkeypatch.setattr(grammar_trial.subprocess, "Popen", popen)
    with pytest.raises(EngineUnavailableError, match="not now"):
        trial.fault_in(FINE)
    assert "PYTHONPATH" in seen
    assert "HF_TOKEN" not in seen
