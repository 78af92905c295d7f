"""The team of a card: who has a key, who is on and what each used; what is said of it to pages and in core widgets."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

import llmapi_kit as kit
from llmapi_kit.api.running_requests import RunningRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, ServerError, StoreError
from llmapi_kit.notebook import live_view
from llmapi_kit.notebook.live_card import LiveCard
from llmapi_kit.notebook.qr_code import qr_code
from llmapi_kit.notebook.team import Member, Team, team_content, team_summary
from tests.notebook.test_plain_buttons import click

OWNER = Member("owner", "active")


@pytest.fixture
def server():
    yield kit.launch(MockEngine(), port=0)
    kit.stop_all()


@pytest.fixture
def card(server):
    """A card whose thread does not run, as messages of a page reach it."""
    return LiveCard(server)


@pytest.fixture
def plain_card(server, monkeypatch):
    """One without anywidget."""
    monkeypatch.setattr(live_view, "has_anywidget", lambda: False)
    return LiveCard(server)


def ask_as(server, api_key):
    with server.client(api_key=api_key) as client:
        client.completions.create(model="mock", prompt="one two three")


def states(server):
    return {key["name"]: key["state"] for key in server.keys.list()}


def test_it_has_everybody_whose_key_opens_or_will_with_what_they_used_today(server):
    ask_as(server, server.keys.create("ada").api_key)
    for name in ("grace", "linus"):
        server.keys.create(name)
    server.keys.pause("grace")
    server.keys.revoke("linus")
    server.invite("barbara")
    assert Team().look(server) == (
        OWNER,
        Member("ada", "active", requests=1, tokens=6),
        Member("grace", "paused"),
        Member("barbara", "invited"),
    )


def test_who_is_on_is_told_at_once_and_the_database_is_asked_now_and_then(server, monkeypatch):
    team = Team()
    team.look(server)
    server.keys.create("ada")
    request = RunningRequest("chatcmpl-1", "owner", "POST /v1/completions", "mock", "running", 3, 12, 2.0)
    monkeypatch.setattr(server, "requests", lambda: [request, request])
    assert team.look(server) == (Member("owner", "active", running=2),)
    team.expire()
    assert [member.name for member in team.look(server)] == ["owner", "ada"]


def test_a_database_that_does_not_answer_leaves_what_was_known(server, monkeypatch, caplog):
    team = Team()
    before = team.look(server)

    def fail(days):
        raise StoreError("The database is away.")

    monkeypatch.setattr(server.keys, "usage", fail)
    team.expire()
    assert team.look(server) == before
    assert "could not be read for the card" in caplog.text


def test_there_is_none_without_a_key_or_a_server(server):
    open_to_all = kit.launch(MockEngine(), port=0, api_key=False, name="open")
    assert Team().look(open_to_all) == ()
    server.stop()
    assert Team().look(server) == ()
    assert team_content(()) is None


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([], "Team: no keys for teammates yet"),
        ([Member("a", "active", running=1)], "Team: 1 teammate; a on now"),
        ([Member(name, "active", running=1) for name in "abcd"], "Team: 4 teammates; a, b, c and others on now"),
    ],
    ids=["nobody", "one", "many"],
)
def test_a_line_says_how_many_they_are_and_who_is_on(others, said):
    assert team_summary([OWNER, *others]) == said


def test_bars_are_in_proportion_to_who_used_most():
    members = team_content([OWNER, Member("a", "active", tokens=40), Member("b", "active", tokens=10)])["members"]
    assert [member["share"] for member in members] == [0, 1, 0.25]
    assert [member["isOwner"] for member in members] == [True, False, False]


def test_an_invitation_goes_to_the_page_that_asked_and_is_kept_nowhere(server, card):
    made = card._invite({"name": " ada "})
    assert made["url"].startswith(f"{server.url}/#invite=")
    assert made["isLocal"]
    assert states(server) == {"ada": "invited"}
    code = made["url"].partition("=")[2]
    kept = f"{card._bundle()} {card.view._state()} {card.view._widget.get_state()} {card.__dict__}"
    assert code not in kept
    with pytest.raises(ConfigError, match="ada"):
        card._invite({"name": "ada"})
    with pytest.raises(ConfigError, match="letters"):
        card._invite({"name": "<b>"})


def test_a_page_pauses_resumes_and_revokes_a_key_and_is_told_so_at_once(server, card):
    server.keys.create("ada")
    for action, state in (("pause", "paused"), ("resume", "active"), ("revoke", "revoked")):
        card.view._actions[action]({"name": "ada"})
        assert states(server) == {"ada": state}
        shown = {member["name"]: member["state"] for member in card.view._state()["team"]["members"]}
        assert shown.get("ada") == (None if action == "revoke" else state)


def test_a_stopped_server_takes_neither_invitations_nor_changes(server, card):
    server.stop()
    for action in ("invite", "revoke"):
        with pytest.raises(ServerError, match="stopped"):
            card.view._actions[action]({"name": "ada"})


def test_core_widgets_pause_resume_and_revoke_who_is_chosen(server, plain_card):
    row = plain_card._team_row
    assert row._buttons["Revoke"].disabled
    for name in ("ada", "bob"):
        server.keys.create(name)
    plain_card._look_again(server)
    assert list(row._names.options) == [("ada", "ada"), ("bob", "bob")]
    row._names.value = "bob"
    for title, state in (("Pause", "paused"), ("Resume", "active")):
        click(row, title)
        assert states(server)["bob"] == state
        assert row._names.value == "bob"
        assert f">{state}<" in row._table.value
        assert row._buttons["Pause"].disabled is (state == "paused")
    click(row, "Revoke")
    assert states(server) == {"ada": "active", "bob": "revoked"}
    assert row._names.value == "ada"


def test_core_widgets_offer_what_can_be_done_with_the_tunnel_now(server, plain_card):
    buttons = plain_card._buttons._buttons
    assert [title for title, button in buttons.items() if not button.disabled] == ["Stop", "Restart"]
    with pytest.raises(ServerError, match="no tunnel to open again"):
        plain_card._do("reopen_tunnel")


def test_a_qr_code_is_black_on_white_with_its_quiet_zone_and_holds_no_text():
    code = unquote(qr_code("https://llm.example.com"))
    assert code.startswith("data:image/svg+xml")
    assert "fill='#fff'" in code
    assert "stroke='#000'" in code
    assert "width='33'" in code, "25 modules of version 2, and 4 on each side"
    assert "example" not in code
