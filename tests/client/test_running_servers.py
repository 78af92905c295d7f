"""The registry: found by others of this user, never stale, never readable by other users."""

import json
import os
import platform
import stat
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.config import load_settings
from llmapi_kit.errors import ConfigError

pytestmark = pytest.mark.kernel

KEY = "sk-llmapi-for-tests-0123456789"


@pytest.fixture
def registry():
    return RunningServers(load_settings())


@pytest.fixture
def folder():
    return load_settings().home / "servers"


def record(**changes):
    values = {"instance": "abc", "url": "http://127.0.0.1:9", "port": 9, "models": ("mock",), **changes}
    return ServerRecord(**values)


def process_that_ended():
    """A pid that was a process, and when that one began."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = psutil.Process(child.pid).create_time()
        child.kill()
    return child.pid, started


def test_what_was_added_is_found_with_its_key(registry):
    registry.add(record(public_url="https://x.example"), KEY)
    assert registry.running() == [record(public_url="https://x.example", started_at=registry.running()[0].started_at)]
    assert registry.key(record()) == KEY


@pytest.mark.slow
def test_it_is_found_by_another_process(registry):
    registry.add(record(), KEY)
    script = """
from llmapi_kit.config import load_settings
from llmapi_kit.client.running_servers import RunningServers
registry = RunningServers(load_settings())
[record] = registry.running()
print(record.pid, record.url, registry.key(record))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stdout.split() == [str(os.getpid()), "http://127.0.0.1:9", KEY], ran.stderr


def test_the_newest_comes_first(registry):
    for instance, started_at in (("old", 1.0), ("newest", 3.0), ("middle", 2.0)):
        registry.add(record(instance=instance, started_at=started_at), None)
    assert [each.instance for each in registry.running()] == ["newest", "middle", "old"]


def test_files_are_for_this_user_only(registry, folder):
    registry.add(record(), KEY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()} == {
        "abc.json": "0o600",
        "abc.key": "0o600",
    }


def test_the_record_itself_has_no_key(registry, folder):
    registry.add(record(), KEY)
    assert KEY not in (folder / "abc.json").read_text() + repr(registry.running())


def test_remove_takes_the_key_along_and_may_be_repeated(registry, folder):
    registry.add(record(), KEY)
    registry.remove(record())
    registry.remove(record())
    assert list(folder.iterdir()) == []


def test_a_record_of_a_dead_process_is_pruned_with_its_key(registry, folder):
    pid, started = process_that_ended()
    registry.add(record(pid=pid, process_started=started), KEY)
    assert registry.running() == []
    assert list(folder.iterdir()) == []


def test_a_recycled_pid_is_not_taken_for_the_server(registry):
    registry.add(record(process_started=psutil.Process().create_time() - 60), KEY)
    assert registry.running() == []


def test_a_zombie_is_dead(registry):
    """Where nobody reaps a killed kernel, its pid goes on to exist."""
    with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as child:
        child.stdout.read()  # it has ended, or is about to
        deadline = time.monotonic() + 10
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
        registry.add(record(pid=child.pid, process_started=psutil.Process(child.pid).create_time()), None)
        assert registry.running() == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"text"', "{}", '{"models": 3}', "[" * 5000, "\xff\xfe"],
    ids=["empty", "half", "list", "null", "text", "no fields", "wrong type", "deep", "not text"],
)
def test_files_that_are_no_records_are_ignored_and_left_alone(registry, folder, content):
    registry.add(record(), None)
    (folder / "other.json").write_bytes(content.encode("latin-1"))
    assert [each.instance for each in registry.running()] == ["abc"]
    assert (folder / "other.json").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("pid", "many"), ("pid", None), ("port", "x"), ("models", [1, {}]), ("url", 3)]
)
def test_a_record_with_a_wrong_value_is_ignored(registry, folder, field, value):
    registry.add(record(), None)
    values = json.loads((folder / "abc.json").read_text())
    (folder / "abc.json").write_text(json.dumps({**values, field: value}))
    assert registry.running() == []


@pytest.mark.parametrize("pid", [-1, 0, 2**40])
def test_a_pid_that_can_be_none_is_dead(registry, pid):
    registry.add(record(pid=pid), None)
    assert registry.running() == []


def test_a_record_under_another_name_removes_nothing(registry, folder, tmp_path):
    pid, started = process_that_ended()
    victim = folder.parent / "victim.key"
    registry.add(record(instance="../victim", pid=pid, process_started=started), None)
    victim.write_text("precious")
    (folder.parent / "victim.json").rename(folder / "odd.json")
    assert registry.running() == []
    assert victim.exists()


def test_a_record_of_a_newer_version_with_more_fields_is_read(registry, folder):
    registry.add(record(), None)
    values = json.loads((folder / "abc.json").read_text())
    (folder / "abc.json").write_text(json.dumps({**values, "colour": "blue"}))
    assert len(registry.running()) == 1


def test_servers_of_another_machine_with_the_same_home_are_neither_shown_nor_forgotten(registry, folder):
    pid, started = process_that_ended()
    elsewhere = record(machine=platform.node() + "-2", pid=pid, process_started=started)
    registry.add(elsewhere, KEY)
    assert registry.running() == []
    assert registry.key(elsewhere) == KEY
    registry.add(replace(elsewhere, started_at=time.time() - 31 * 86400), KEY)
    assert registry.running() == []
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_half_done_goes_away(registry, folder):
    registry.add(record(), KEY)
    leftovers = [folder / "gone.key", folder / ".gone.json.17"]
    for path in leftovers:
        path.write_text("x")
    assert len(registry.running()) == 1
    assert all(path.exists() for path in leftovers), "another process may just be writing them"
    for path in leftovers:
        os.utime(path, (1, 1))
    registry.running()
    assert sorted(path.name for path in folder.iterdir()) == ["abc.json", "abc.key"]


def test_reading_makes_no_folder(registry, folder):
    assert registry.running() == []
    assert not folder.exists()


def test_a_home_that_cannot_be_used_is_told_with_the_variable(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(tmp_path / "file" / "home"))
    registry = RunningServers(load_settings())
    assert registry.running() == []
    with pytest.raises(ConfigError, match="Set LLMAPI_KIT_HOME to a folder you can write to"):
        registry.add(record(), KEY)


def test_a_failed_write_is_told_with_the_variable(registry, folder):
    folder.mkdir(parents=True)
    (folder / "abc.json").mkdir()  # nothing can take its place
    with pytest.raises(ConfigError, match=r"can't be written to.*Set LLMAPI_KIT_HOME"):
        registry.add(record(), None)
