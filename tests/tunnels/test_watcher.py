"""What the watcher does with a tunnel that dies, changes or can't be reached; on stand-ins for tunnels."""

from __future__ import annotations

import itertools
import threading

import pytest

from llmapi_kit.errors import TunnelAuthError, TunnelDownError
from llmapi_kit.tunnels import Tunnel, TunnelSettings, TunnelStatus, watcher
from llmapi_kit.tunnels.health import Health
from llmapi_kit.tunnels.watcher import MAX_FAILURES, WatchedTunnel

OURS = {"status": "ok", "instance": "ours"}
OK = Health(True)
STRANGER = Health(False, "another server", cause="answer")
SILENCE = Health(False, "nobody there", cause="silence")
UNKNOWN = Health(False, "no such name", cause="dns")


class StandIn:
    """A tunnel that is as the test says."""

    settle_s = 0.0

    def __init__(self, url, *, health=OK, error=None, kind="ngrok"):
        self.url, self.health, self.error, self.kind = url, health, error, kind
        self.state = "stopped"
        self.num_probes = 0
        self.num_looks = 0

    @property
    def is_open(self):
        self.num_looks += 1
        return self.state == "up"

    def prepare(self):
        pass

    def start(self):
        if self.error is not None:
            raise self.error
        self.state = "up"
        return self.url

    def status(self):
        return TunnelStatus(self.state, self.url, "its agent ended" if self.state == "down" else None)

    def probe(self, *, timeout_s=10.0):
        self.num_probes += 1
        return self.health

    def check(self, *, timeout_s=10.0):
        return self.status()

    def stop(self):
        self.state = "stopped"


class NoWait:
    """A backoff that keeps count and waits for nothing."""

    def __init__(self):
        self.num_tries = 0
        self.is_slow = False
        self.num_resets = 0

    def next_s(self):
        self.num_tries += 1
        return 0.0

    def slow_down(self):
        self.is_slow = True

    def reset(self):
        self.num_resets += 1


@pytest.fixture
def watch(monkeypatch, tmp_path, public_site):
    """Start a watched tunnel that is opened as the first of the tunnels given, and again as the next ones."""
    monkeypatch.setattr(watcher, "LOOK_S", 0.002)
    monkeypatch.setattr(watcher, "REPEAT_S", 0.002)
    watched = []

    def start(*tunnels, server=OURS, on_change=lambda _: None, kind="ngrok", **settings):
        port = int(public_site(server).url.rpartition(":")[2])
        waiting = list(tunnels)
        asked = []

        def open_next(kind, **_):
            asked.append(kind)
            return waiting.pop(0)

        monkeypatch.setattr(watcher, "open_tunnel", open_next)
        settings = TunnelSettings(state_dir=tmp_path, instance="ours", **{"probe_interval_s": 0.002, **settings})
        seen = []

        def note(status):
            seen.append(status)
            on_change(status)

        tunnel = WatchedTunnel(kind, port=port, settings=settings, on_change=note, backoff=NoWait())
        tunnel.seen, tunnel.asked = seen, asked
        watched.append(tunnel)
        tunnel.start()
        return tunnel

    yield start
    for each in watched:
        each.stop()
        assert each._thread is None or not each._thread.is_alive()


def test_it_is_a_tunnel(watch):
    tunnel = watch(StandIn("https://a"))
    assert isinstance(tunnel, Tunnel)
    assert (tunnel.kind, tunnel.status().state) == ("ngrok", "up")


def test_a_tunnel_whose_agent_ended_is_opened_again_and_the_new_url_told(watch, wait_until):
    first, second = StandIn("https://a"), StandIn("https://b")
    tunnel = watch(first, second)
    first.state = "down"
    wait_until(lambda: tunnel.status() == TunnelStatus("up", "https://b"))
    assert [(each.state, each.public_url) for each in tunnel.seen] == [
        ("starting", None),
        ("up", "https://a"),
        ("down", "https://a"),
        ("up", "https://b"),
    ]
    assert tunnel.seen[2].reason == "its agent ended It is opened again in 0 s."
    assert first.state == "stopped"


def test_a_url_that_a_stranger_answers_is_down_at_once_and_opened_again_when_that_lasts(watch, wait_until):
    first, second = StandIn("https://a", health=STRANGER), StandIn("https://b")
    tunnel = watch(first, second)
    wait_until(lambda: tunnel.status().public_url == "https://b")
    assert first.num_probes == MAX_FAILURES
    assert tunnel.seen[2] == TunnelStatus("down", "https://a", "another server")


def test_a_url_that_was_reached_and_falls_silent_is_degraded_and_then_opened_again(watch, wait_until):
    first, second = StandIn("https://a"), StandIn("https://b")
    tunnel = watch(first, second)
    wait_until(lambda: first.num_probes > 2)
    first.health = SILENCE
    wait_until(lambda: tunnel.status().public_url == "https://b")
    assert TunnelStatus("degraded", "https://a", "nobody there") in tunnel.seen


def test_a_url_that_comes_back_is_up_again_and_not_opened_again(watch, wait_until):
    first = StandIn("https://a", health=UNKNOWN)
    tunnel = watch(first)
    wait_until(lambda: tunnel.status().state == "degraded")
    first.health = OK
    wait_until(lambda: tunnel.status().state == "up")
    assert tunnel.asked == ["ngrok"]


@pytest.mark.parametrize("health", [SILENCE, UNKNOWN], ids=["silent", "unknown to DNS"])
def test_a_url_that_was_never_reached_from_here_is_kept_for_those_who_reach_it(watch, wait_until, health):
    first = StandIn("https://a", health=health)
    tunnel = watch(first)
    wait_until(lambda: first.num_probes > 5 * MAX_FAILURES)
    assert (tunnel.status().state, tunnel.status().public_url) == ("degraded", "https://a")
    assert tunnel.asked == ["ngrok"]


def test_a_name_that_dns_forgot_is_not_opened_again(watch, wait_until):
    first = StandIn("https://a")
    tunnel = watch(first)
    wait_until(lambda: first.num_probes > 1)
    first.health = UNKNOWN
    wait_until(lambda: first.num_probes > 5 * MAX_FAILURES)
    assert tunnel.status().state == "down"
    assert tunnel.asked == ["ngrok"]


def test_no_tunnel_is_opened_again_for_a_server_that_does_not_answer(watch, wait_until):
    first = StandIn("https://a", health=STRANGER)
    tunnel = watch(first, server={"status": "ok", "instance": "another"})
    wait_until(lambda: first.num_probes > 3 * MAX_FAILURES)
    assert tunnel.asked == ["ngrok"]
    assert any("The server on this machine does not answer" in (each.reason or "") for each in tunnel.seen)


def test_opening_again_is_repeated_until_it_works_and_says_why_it_did_not(watch, wait_until):
    refused = [StandIn("", error=TunnelDownError("the network is gone\nand a log")) for _ in range(3)]
    first, last = StandIn("https://a"), StandIn("https://a")
    tunnel = watch(first, *refused, last)
    first.state = "down"
    wait_until(lambda: last.state == "up" and tunnel.status().state == "up")
    assert any((each.reason or "").startswith("the network is gone It is opened again") for each in tunnel.seen)
    assert tunnel._backoff.num_tries == 4
    assert not tunnel._backoff.is_slow


def test_a_refused_login_is_tried_again_seldom(watch, wait_until):
    first, last = StandIn("https://a"), StandIn("https://a")
    tunnel = watch(first, StandIn("", error=TunnelAuthError("the token was revoked")), last)
    first.state = "down"
    wait_until(lambda: last.state == "up")
    assert tunnel._backoff.is_slow


def test_a_link_that_dies_soon_after_it_was_opened_waits_longer_the_next_time(watch, wait_until):
    tunnels = [StandIn("https://a") for _ in range(3)]
    tunnel = watch(*tunnels)
    for before, after in itertools.pairwise(tunnels):
        wait_until(lambda before=before: before.num_probes > 1)
        before.state = "down"
        wait_until(lambda after=after: after.state == "up")
    assert tunnel._backoff.num_tries == 2
    assert tunnel._backoff.num_resets == 0


def test_the_backoff_begins_anew_after_a_link_that_held(watch, wait_until, monkeypatch):
    monkeypatch.setattr(watcher, "STABLE_S", 0.0)
    tunnel = watch(StandIn("https://a"))
    wait_until(lambda: tunnel._backoff.num_resets)


def test_what_was_chosen_is_tried_before_another_choice(watch, wait_until):
    first, second, third = (StandIn("https://a", kind="localhost.run") for _ in range(3))
    second.error = TunnelDownError("not now")
    tunnel = watch(first, second, third, kind="auto")
    first.state = "down"
    wait_until(lambda: third.state == "up")
    assert tunnel.asked == ["auto", "localhost.run", "auto"]


def test_while_a_choice_is_made_again_the_kind_is_what_worked(watch, wait_until):
    first, undecided = StandIn("https://a", kind="serveo"), StandIn("", kind="auto")
    undecided.error = TunnelDownError("nothing works")
    tunnel = watch(
        first, undecided, StandIn("", error=OSError("a bug")), StandIn("https://b", kind="pinggy"), kind="auto"
    )
    first.state = "down"
    wait_until(lambda: tunnel.status().public_url == "https://b")
    assert tunnel.asked == ["auto", "serveo", "auto", "serveo"]
    assert tunnel.kind == "pinggy"


def test_a_name_that_the_provider_changes_is_told(watch, wait_until):
    first = StandIn("https://a")
    tunnel = watch(first, probe_interval_s=3600)
    first.url = "https://b"
    wait_until(lambda: tunnel.seen[-1] == TunnelStatus("up", "https://b"))


def test_a_link_that_works_is_asked_no_sooner_than_the_interval(watch, wait_until):
    first = StandIn("https://a")
    watch(first, probe_interval_s=3600)
    wait_until(lambda: first.num_looks > 20)
    assert first.num_probes == 1


def test_a_url_that_is_not_reached_is_asked_no_sooner_than_the_interval_after_a_few_times(watch, wait_until):
    first = StandIn("https://a", health=SILENCE)
    watch(first, probe_interval_s=3600)
    wait_until(lambda: first.num_probes == MAX_FAILURES)
    looks = first.num_looks
    wait_until(lambda: first.num_looks > looks + 20)
    assert first.num_probes == MAX_FAILURES


def test_a_fresh_url_is_not_asked_before_it_has_settled(watch, wait_until):
    first = StandIn("https://a")
    first.settle_s = 3600
    watch(first)
    wait_until(lambda: first.num_looks > 20)
    assert first.num_probes == 0


def test_a_listener_that_fails_does_not_end_the_watch(watch, wait_until, caplog):
    def fail(_):
        raise RuntimeError("a bug of the listener's")

    first, second = StandIn("https://a"), StandIn("https://b")
    tunnel = watch(first, second, on_change=fail)
    first.state = "down"
    wait_until(lambda: tunnel.status().public_url == "https://b")
    assert "a bug of the listener's" in caplog.text


def test_a_tunnel_that_the_interpreters_end_stopped_is_not_opened_again(watch, wait_until):
    first = StandIn("https://a")
    tunnel = watch(first)
    first.state = "stopped"
    wait_until(lambda: not tunnel._thread.is_alive())
    assert tunnel.asked == ["ngrok"]


def test_stop_while_it_is_opened_again_stops_the_new_tunnel(watch, wait_until):
    entered, stopped = threading.Event(), threading.Event()
    first, second = StandIn("https://a"), StandIn("https://b")

    def start():
        entered.set()
        assert stopped.wait(60)
        raise TunnelDownError("stopped while it started")

    second.start, second.stop = start, stopped.set
    tunnel = watch(first, second)
    first.state = "down"
    assert entered.wait(60)
    tunnel.stop()
    assert stopped.is_set()
    assert tunnel.status() == TunnelStatus("stopped")
    assert tunnel.seen[-1] == TunnelStatus("stopped")


def test_stop_while_it_waits_ends_the_wait(watch, wait_until):
    first = StandIn("https://a")
    tunnel = watch(first)
    tunnel._backoff.next_s = lambda: 3600.0
    first.state = "down"
    wait_until(lambda: tunnel.status().state == "down")
    tunnel.stop()
    assert not tunnel._thread.is_alive()


def test_starting_it_again_changes_nothing(watch):
    tunnel = watch(StandIn("https://a"))
    assert tunnel.start() == "https://a"
    assert tunnel.asked == ["ngrok"]


def test_the_first_opening_is_not_repeated(watch):
    with pytest.raises(TunnelDownError, match="not here"):
        watch(StandIn("https://a", error=TunnelDownError("not here")))
