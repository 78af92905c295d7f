"""What becomes of the agent when the process that owns it is interrupted, killed, or ends; and the sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from llmapi_kit.errors import ConfigError, TunnelDownError
from llmapi_kit.tunnels import launcher
from llmapi_kit.tunnels.agent_folder import AgentFolder, ProcessMark, sweep_stale_agents

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture
def start_owner(state_dir):
    """A process with a tunnel of its own, in a process group of its own; its lines are read as JSON."""
    owners = []

    def start(agent, then):
        """With an agent of ngrok's, or what is to be known of an ssh host."""
        if isinstance(agent, dict):
            kind, settings = "ssh", {name: str(value) for name, value in agent.items()}
        else:
            kind, settings = "ngrok", {"ngrok_path": str(agent.path), "auth_token": "a-token"}
        order = {"kind": kind, "settings": {**settings, "state_dir": str(state_dir)}, "then": then}
        owner = subprocess.Popen(
            [sys.executable, str(HERE / "owner.py"), json.dumps(order)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        owners.append(owner)
        return owner, json.loads(owner.stdout.readline())

    yield start
    for owner in owners:
        owner.kill()
        owner.wait()
        owner.stdout.close()


@pytest.fixture
def sleeper():
    """A process of ours that does nothing."""
    processes = []

    def start():
        process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def dead(sleeper):
    """The mark of a process that has ended."""
    process = sleeper()
    mark = ProcessMark.of(process.pid)
    process.kill()
    process.wait()
    return mark


def write_pid_file(state_dir, *, owner, agent, **changes):
    """What a tunnel's process leaves behind."""
    folder = AgentFolder("ngrok", state_dir)
    folder.write_private("ngrok.yml", "a token")
    (path,) = state_dir.glob("*.json")
    record = json.loads(path.read_text())
    as_dict = {"owner": owner, "agent": agent}
    record.update({key: {"pid": mark.pid, "created": mark.created} for key, mark in as_dict.items() if mark})
    path.write_text(json.dumps(record | changes))


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_interrupt_of_the_owners_process_group_spares_the_agent(start_owner, fake_agent, is_running):
    agent = fake_agent()
    owner, line = start_owner(agent, "wait")
    os.killpg(owner.pid, signal.SIGINT)
    line = json.loads(owner.stdout.readline())
    assert line == {"state": "up", "naive_child_ended_by": -signal.SIGINT}  # the interrupt did reach the group
    assert is_running(agent.record()["pid"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_kill_9_of_the_owner_ends_the_agent(start_owner, fake_agent, wait_until, is_running):
    agent = fake_agent()
    owner, line = start_owner(agent, "wait")
    assert is_running(agent.record()["pid"])
    owner.kill()
    owner.wait()
    wait_until(lambda: not is_running(agent.record()["pid"]))
    psutil.Process(line["naive_child"]).kill()  # which nobody told to end


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_kill_9_of_the_owner_ends_the_ssh_agent_and_the_forwarding(start_owner, ssh_options, wait_until, is_running):
    owner, line = start_owner(ssh_options, "wait")
    assert psutil.Process(line["agent"]).name() == "ssh"
    owner.kill()
    owner.wait()
    wait_until(lambda: not is_running(line["agent"]))
    psutil.Process(line["naive_child"]).kill()


def test_owner_that_simply_ends_takes_the_ssh_agent_along(start_owner, ssh_options, is_running, state_dir):
    owner, line = start_owner(ssh_options, "exit")
    assert owner.wait(20) == 0
    assert not is_running(line["agent"])
    assert files_in(state_dir) == []


def test_owner_that_simply_ends_takes_the_agent_along_at_once(start_owner, fake_agent, is_running, state_dir):
    agent = fake_agent()
    owner, _ = start_owner(agent, "exit")
    before = time.monotonic()
    assert owner.wait(60) == 0
    assert time.monotonic() - before < 30
    assert not is_running(agent.record()["pid"])
    assert files_in(state_dir) == []


def test_forked_child_that_ends_leaves_its_parents_agent_alone(start_owner, fake_agent, is_running):
    agent = fake_agent()
    owner, _ = start_owner(agent, "fork")
    assert json.loads(owner.stdout.readline()) == {"state": "up"}
    assert is_running(agent.record()["pid"])


def test_stale_agent_is_ended_and_its_files_removed(state_dir, sleeper, dead):
    agent = sleeper()
    write_pid_file(state_dir, owner=dead, agent=ProcessMark.of(agent.pid))
    assert sweep_stale_agents(state_dir) == [agent.pid]
    assert not psutil.pid_exists(agent.pid) or psutil.Process(agent.pid).status() == psutil.STATUS_ZOMBIE
    assert files_in(state_dir) == []


def test_start_sweeps_what_a_killed_owner_left(make_tunnel, fake_agent, state_dir, sleeper, dead):
    agent = sleeper()
    write_pid_file(state_dir, owner=dead, agent=ProcessMark.of(agent.pid))
    left = files_in(state_dir)
    make_tunnel(fake_agent()).start()
    assert agent.wait(60) is not None
    assert not set(left) & set(files_in(state_dir))


def test_process_that_got_a_stale_agents_pid_is_not_killed(state_dir, sleeper, dead):
    stranger = sleeper()
    created_before = ProcessMark(stranger.pid, psutil.Process(stranger.pid).create_time() - 100)
    write_pid_file(state_dir, owner=dead, agent=created_before)
    assert sweep_stale_agents(state_dir) == []
    assert stranger.poll() is None
    assert files_in(state_dir) == []


def test_agent_whose_owners_pid_was_taken_by_another_process_is_stale(state_dir, sleeper):
    agent, stranger = sleeper(), sleeper()
    owner_before = ProcessMark(stranger.pid, psutil.Process(stranger.pid).create_time() - 100)
    write_pid_file(state_dir, owner=owner_before, agent=ProcessMark.of(agent.pid))
    assert sweep_stale_agents(state_dir) == [agent.pid]
    assert stranger.poll() is None


def test_agent_whose_owner_lives_is_left_alone(state_dir, sleeper):
    agent = sleeper()
    write_pid_file(state_dir, owner=None, agent=ProcessMark.of(agent.pid))  # the owner is this process
    left = files_in(state_dir)
    assert sweep_stale_agents(state_dir) == []
    assert agent.poll() is None
    assert files_in(state_dir) == left


def test_pid_file_of_another_machine_is_left_alone(state_dir, sleeper, dead):
    agent = sleeper()
    write_pid_file(state_dir, owner=dead, agent=ProcessMark.of(agent.pid), host="another-machine")
    assert sweep_stale_agents(state_dir) == []
    assert agent.poll() is None
    assert len(files_in(state_dir)) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"host": 1, "owner": 2, "agent": 3}'])
def test_file_that_is_no_pid_file_is_left_alone(state_dir, text):
    state_dir.mkdir()
    (state_dir / "other.json").write_text(text)
    assert sweep_stale_agents(state_dir) == []
    assert files_in(state_dir) == ["other.json"]


def test_running_agent_is_named_in_the_pid_file(make_tunnel, fake_agent, state_dir):
    agent = fake_agent()
    make_tunnel(agent).start()
    (path,) = state_dir.glob("*.json")
    record = json.loads(path.read_text())
    assert record["owner"]["pid"] == os.getpid()
    mark = ProcessMark.of(agent.record()["pid"])
    assert record["agent"] == {"pid": mark.pid, "created": mark.created}


def test_silent_agent_is_named_in_the_pid_file_while_it_starts(make_tunnel, fake_agent, state_dir, wait_until):
    agent = fake_agent(is_silent=True)
    tunnel = make_tunnel(agent)

    def start():
        with pytest.raises(TunnelDownError):
            tunnel.start()

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(agent.record)

    def named():
        return json.loads(next(state_dir.glob("*.json")).read_text())["agent"]

    assert wait_until(named)["pid"] == agent.record()["pid"]
    tunnel.stop()
    thread.join(60)


def test_process_that_ended_but_was_not_collected_counts_as_gone(sleeper, wait_until):
    process = sleeper()
    mark = ProcessMark.of(process.pid)
    assert mark.find() is not None
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert mark.find() is None


def test_state_folder_that_can_not_be_made_is_refused(make_tunnel, fake_agent, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="state folder"):
        make_tunnel(fake_agent(), state_dir=tmp_path / "file" / "state").start()


@pytest.mark.parametrize(
    ("owner_pid", "folder"), [("1", "."), (str(os.getpid()), "gone")], ids=["owner gone", "stopped meanwhile"]
)
def test_launcher_that_comes_too_late_starts_nothing(tmp_path, owner_pid, folder):
    pid_file, made = tmp_path / folder / "agent.pid", tmp_path / "made"
    command = [sys.executable, "-I", "-S", launcher.__file__, str(pid_file), owner_pid, "", "/bin/sh"]
    result = subprocess.run([*command, "-c", f"touch {made}"], timeout=10)
    assert result.returncode == 3
    assert not made.exists()
