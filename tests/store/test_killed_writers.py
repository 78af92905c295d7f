"""What was acknowledged is there, whatever becomes of the process that wrote it, and whoever else writes."""

from __future__ import annotations

import asyncio
import multiprocessing
import random

import pytest

from llmapi_kit.store.sessions import SessionStore

from . import writers
from .conftest import DEADLINE_S

NUM_KILLS = 12


@pytest.mark.slow
def test_every_acknowledged_turn_is_there_after_kill_9(open_database, url, processes):
    chance = random.Random(1)
    acknowledged = {}
    for _ in range(NUM_KILLS):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = processes.Process(target=writers.write_until_killed, args=(url, theirs))
        process.start()
        theirs.close()
        for _ in range(chance.randrange(1, 40)):
            session_id, num = ours.recv()
            acknowledged[session_id] = num
        process.kill()
        process.join(DEADLINE_S)
        assert process.exitcode == -9, "it was to write until it is killed"
        while True:  # what it said before it died
            try:
                session_id, num = ours.recv()
            except EOFError:
                break
            acknowledged[session_id] = num
        check(open_database, url, acknowledged)
    assert len(acknowledged) > NUM_KILLS
    assert sum(acknowledged.values()) > 10 * NUM_KILLS


def check(open_database, url, acknowledged):
    """Each session has what was acknowledged, and at most the one write that was under way, whole."""
    database = open_database(url)
    sessions = SessionStore(database, expire_s=3600, max_sessions=1000)
    for session_id, num in acknowledged.items():
        turns = asyncio.run(sessions.turns("owner", session_id))
        assert len(turns) in (num, num + 2)
        assert [turn.content for turn in turns] == [writers.said(position) for position in range(len(turns))]
        asyncio.run(sessions.append("owner", session_id, [], expected=len(turns)))  # the session knows of each
    if url.startswith("sqlite"):
        check_integrity = "PRAGMA integrity_check"
        assert database.run_sync(lambda connection: connection.exec_driver_sql(check_integrity).scalar()) == "ok"
    database.close(DEADLINE_S)


@pytest.mark.slow
def test_processes_that_write_to_one_session_at_once_lose_nothing(open_database, url, processes):
    num_processes, num = 3, 20
    sessions = SessionStore(open_database(url), expire_s=3600, max_sessions=1000)
    session = asyncio.run(sessions.create("owner", "mock", {}))
    pipes, started = [], []
    for index in range(num_processes):
        ours, theirs = multiprocessing.Pipe()
        arguments = (url, session.id, f"writer {index}", num, theirs)
        started.append(processes.Process(target=writers.race, args=arguments))
        started[-1].start()
        theirs.close()
        pipes.append(ours)
    assert [pipe.recv() for pipe in pipes] == ["ready"] * num_processes
    for pipe in pipes:
        pipe.send("go")
    assert [pipe.recv() for pipe in pipes] == ["done"] * num_processes
    for process in started:
        process.join(DEADLINE_S)
    turns = [turn.content for turn in asyncio.run(sessions.turns("owner", session.id))]
    for name in (f"writer {index}" for index in range(num_processes)):
        assert [said for said in turns if said.startswith(name)] == [f"{name} {index}" for index in range(num)]
    assert len(turns) == num * num_processes
