"""Keys are shown where they are asked for, and nowhere else."""

import copy
import logging
import pprint
import stat
import traceback

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, ServerError

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CANARY = "sk-llmapi-CANARY-4f6b21d0a97c4e55"
WRONG = "sk-llmapi-WRONG-CANARY-1b2c3d4e5f"


def texts_of(thing):
    return [repr(thing), str(thing), format(thing), f"{thing}", pprint.pformat(thing)]


def test_a_random_key_has_256_bits_and_is_new_each_time():
    keys = {kit.launch("mock", port=0, name=str(n)).api_key for n in range(3)}
    assert len(keys) == 3
    assert all(key.startswith("sk-llmapi-") and len(key) >= 10 + 43 for key in keys)


def kept_keys(settings):
    return {path.name: path for path in (settings.home / "keys").iterdir()}


def test_a_key_lives_with_the_servers_name_until_it_is_rotated(warm_program):
    """It changed with every kernel, and the settings of teammates broke unannounced."""
    launch = "import llmapi_kit as kit; print(kit.launch('mock', port=0, name='team/one').api_key)"
    first = warm_program(launch)
    assert warm_program(launch) == first
    server = kit.launch("mock", port=0, name="team/one")
    assert server.api_key == first
    assert kit.launch("mock", port=0, name="team.one").api_key != first
    new = server.rotate_key()
    assert new not in (first, None)
    assert warm_program(launch) == new


def test_a_key_that_is_kept_is_for_this_user_only_and_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    server = kit.launch("mock", port=0, name="../../outside")
    (path,) = kept_keys(server.settings).values()
    assert path.read_text() == f"{server.api_key}\n"
    path.chmod(0o644)
    server.stop()
    assert kit.launch("mock", port=0, name="../../outside").api_key == server.api_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert server.api_key not in caplog.text


def test_a_key_of_ones_own_is_not_kept():
    server = kit.launch("mock", port=0, api_key=CANARY)
    assert not (server.settings.home / "keys").exists()
    server.stop()
    assert kit.launch("mock", port=0).api_key != CANARY


def test_a_rotated_key_opens_at_once_and_the_old_one_nothing(ask, beside, wait_until):
    engine = MockEngine("word", num_tokens=1000, delay_s=0.02)
    server = kit.launch(engine, port=0)
    old = copy.copy(server)
    under_way = beside(ask, old)
    wait_until(lambda: engine.stats().num_running == 1)
    new = server.rotate_key()
    assert under_way().status_code == 401
    assert ask(old).status_code == 401
    assert ask(server, max_tokens=1).status_code == 200
    assert kit.connect().api_key == kit.connect(server.url).api_key == new
    assert kit.launch(engine, port=0) is server


def test_a_server_without_a_key_or_that_is_stopped_has_none_to_rotate():
    server = kit.launch("mock", port=0, api_key=False)
    with pytest.raises(ConfigError, match="asks for no key"):
        server.rotate_key()
    keyed = kit.launch("mock", port=0)
    keyed.stop()
    with pytest.raises(ServerError, match="stopped"):
        keyed.rotate_key()


def test_no_text_of_any_object_has_the_key():
    server = kit.launch("mock", port=0, api_key=CANARY)
    remote = kit.connect()
    assert server.api_key == remote.api_key == CANARY
    shown = [server, remote, kit.servers(), kit.servers()[0], server.stats(), server.settings, server._state]
    texts = [text for thing in shown for text in texts_of(thing)]
    assert CANARY not in "\n".join(texts)
    assert "sk-llmapi-…4e55" in repr(server)


@pytest.mark.slow
def test_no_log_and_no_error_has_a_key(caplog, capfd, ask):
    caplog.set_level(logging.DEBUG)
    server = kit.launch(MockEngine(delay_s=0.01), port=0, api_key=CANARY)
    impostor = copy.copy(server)
    impostor.api_key = WRONG
    answers = [
        ask(server),
        ask(impostor),
        ask(server, model="no such model"),
        ask(server, temperature="hot"),
        ask(server, "x" * 3_000_000),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 404, 400, 413]
    errors = []
    for cause in (lambda: kit.connect(server.url, WRONG), lambda: kit.launch("mock", port=server.port, name="b")):
        with pytest.raises(kit.LlmApiKitError) as caught:
            cause()
        errors.append("".join(traceback.format_exception(caught.value)))
    server._thread.call_soon(raise_exit)
    server._thread._thread.join(60)
    kit.launch("mock", port=0, api_key=CANARY, name="c").stop()
    kit.stop_all()
    output = capfd.readouterr()
    seen = "\n".join([caplog.text, output.out, output.err, *errors, *(answer.text for answer in answers)])
    assert "died" in seen, "the log was not captured"
    assert CANARY not in seen
    assert WRONG not in seen


def raise_exit():
    raise SystemExit("gone")


@pytest.mark.parametrize("key", ["a b", "a key with spaces in it", "schlüssel-schlüssel-schlüssel", "x" * 20 + "\n"])
def test_a_key_that_is_refused_is_not_repeated(key):
    with pytest.raises(ConfigError) as caught:
        kit.launch("mock", port=0, api_key=key)
    assert key not in str(caught.value)


def test_an_empty_key_is_not_taken_for_none():
    with pytest.raises(ConfigError, match="has 0 characters"):
        kit.launch("mock", port=0, api_key="")
