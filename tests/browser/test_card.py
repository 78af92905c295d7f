"""Card and dashboard in a real JupyterLab in a real Chromium: alive with their kernel, and true without it.

All tests share one page and one kernel; each begins with the server running.
"""

from __future__ import annotations

import json
import os
import signal

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import expect

from .axe import serious_faults
from .chromium import find_chromium
from .lab import DARK, LIGHT, LabPage

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
KEY = "canary-0123456789-canary-0123456789"
LAUNCH = """
import os, threading
import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook import live_card, team
from llmapi_kit.notebook.dashboard import dashboard
live_card.LOOK_EVERY_S = dashboard.SAMPLE_EVERY_S = team.READ_EVERY_S = 0.2  # nobody waits here to read them
engine = MockEngine(delay_s=0.01, num_tokens=100_000, context_length=200_000)
server = kit.launch(engine, port=0, api_key=os.environ["CANARY"], aliases={"gpt-4o": "mock"})
server
"""
DASHBOARD = "board = kit.dashboard(server)"
ASK = """
def ask():
    with server.client(max_retries=0) as client:
        try:
            client.completions.create(model="mock", prompt="a b c", max_tokens=100_000)
        except Exception as exc:
            endings.append(str(exc))
endings = []
threading.Thread(target=ask, daemon=True).start()
"""


@pytest.fixture(scope="module")
def opened(jupyter, open_lab):
    """A page on a notebook that has run, and its path."""
    path = jupyter.add_notebook("card", env={"CANARY": KEY}, launch=LAUNCH, dashboard=DASHBOARD)
    page = open_lab(path)
    page.save_widgets(True)
    page.run_all()
    return page, path


@pytest.fixture
def other(opened):
    """Another page, with nothing loaded."""
    page, _ = opened
    made = LabPage(page.page.context.new_page())
    made.page.set_default_timeout(60_000)
    yield made
    made.page.close()


@pytest.fixture
def lab(opened):
    """The page with the server running, and the notebook's path."""
    page, path = opened
    page.execute("server.is_running or server.restart()")
    title(page, "Model server running").wait_for()
    yield page, path
    assert page.errors == []


def card(lab):
    return lab.page.locator(".llmapi-kit-card")


def title(lab, text):
    return card(lab).get_by_text(text, exact=True)


def button(lab, name):
    return card(lab).get_by_role("button", name=name, exact=True)


def board(lab):
    return lab.page.locator(".llmapi-kit-dashboard")


def test_launch_shows_one_card_though_the_cell_ends_with_the_servers_name(lab):
    page, _ = lab
    assert card(page).count() == 1
    assert page.page.locator(".jp-OutputArea-output").count() == 2  # the card, the dashboard
    assert "gpt-4o = mock" in card(page).inner_text()
    assert button(page, "Copy URL").count() == 1
    button(page, "Copy URL").click()
    button(page, "Copy URL").get_by_text("Copied").wait_for()
    assert page.page.evaluate("() => navigator.clipboard.readText()").endswith("/v1")


def test_key_is_shown_on_demand_hidden_again_and_never_saved(lab):
    page, path = lab
    shown = card(page).locator(".llmapi-kit-key")
    button(page, "Reveal").wait_for()
    assert KEY not in page.page.content()

    button(page, "Reveal").click()
    button(page, "Hide").wait_for()
    assert shown.inner_text() == KEY
    page.save()  # while the key stands in the page, and with the state of the widgets
    saved = path.read_text()
    assert "widget-state+json" in saved, "the widgets' state was not saved, so it was not searched"
    assert KEY not in saved

    button(page, "Hide").click()
    button(page, "Reveal").wait_for()
    assert KEY not in page.page.content()

    button(page, "Copy key").click()
    card(page).get_by_text("copied", exact=True).wait_for()
    assert page.page.evaluate("() => navigator.clipboard.readText()") == KEY
    assert KEY not in page.page.content()


def test_key_hides_by_itself_after_a_while(lab):
    page, _ = lab
    button(page, "Reveal").click()
    button(page, "Hide").wait_for()
    page.page.clock.fast_forward(20_000)
    button(page, "Reveal").wait_for(timeout=5_000)
    assert KEY not in page.page.content()


def test_a_server_that_stops_takes_a_revealed_key_along_and_its_buttons_stop_and_restart_it(lab):
    page, _ = lab
    button(page, "Reveal").click()
    button(page, "Hide").wait_for()
    button(page, "Stop").click()
    title(page, "Model server stopped").wait_for()
    assert KEY not in page.page.content()
    expect(button(page, "Reveal")).to_be_disabled()
    board(page).get_by_text("The server is stopped.").wait_for()

    button(page, "Restart").click()
    title(page, "Model server running").wait_for()
    button(page, "Reveal").click()
    button(page, "Hide").wait_for()
    page.execute("server.stop()")  # and from code
    title(page, "Model server stopped").wait_for()
    assert KEY not in page.page.content()


def test_the_dashboard_moves_and_cancels_a_request(lab):
    page, _ = lab
    tokens = board(page).get_by_role("img", name="Tokens a second")
    tokens.locator("canvas").wait_for()
    page.execute(ASK)
    board(page).get_by_text("running", exact=True).wait_for()
    page.page.wait_for_function(
        "element => !element.getAttribute('aria-label').endsWith(': 0')", arg=tokens.element_handle()
    )
    button(page, "Reveal").scroll_into_view_if_needed()  # out of sight, a card is not told the speed
    card(page).get_by_text("1 running").wait_for()
    page.execute("request_id = server.requests()[0].id")
    board(page).get_by_role("button", name="Cancel request").click()
    board(page).get_by_text("No requests are running.").wait_for()
    board(page).get_by_text("request_cancelled").wait_for()  # in its log
    page.execute("while not endings: pass\nassert 'cancelled by whoever runs this server' in endings[0], endings")
    button(page, "Reveal").scroll_into_view_if_needed()
    card(page).get_by_text("idle", exact=True).wait_for()


def invite(lab, name):
    """An invitation made in the card, which shows its link; returns the link."""
    lab.page.locator(".llmapi-kit-team").evaluate("element => { element.open = true; }")
    card(lab).get_by_label("Invite").fill(name)
    button(lab, "Make a link").click()
    button(lab, "Copy link").wait_for()
    return invitation(lab).locator("code").inner_text()


def invitation(lab):
    return card(lab).locator(".llmapi-kit-invitation")


def test_an_invitations_link_is_shown_once_to_be_copied_and_never_saved(lab):
    page, path = lab
    link = invite(page, "alan")
    code = link.partition("#invite=")[2]
    assert len(code) >= 32
    page.page.wait_for_function(
        "element => element.naturalWidth > 0", arg=invitation(page).locator("img").element_handle()
    )
    button(page, "Copy link").click()
    button(page, "Copied").wait_for()
    assert page.page.evaluate("() => navigator.clipboard.readText()") == link
    page.save()  # while it stands in the page, and with the state of the widgets
    saved = path.read_text()
    assert "widget-state+json" in saved, "the widgets' state was not saved, so it was not searched"
    assert code not in saved
    row(page, "alan").get_by_text("invited, not here yet").wait_for()

    button(page, "Hide").click()
    assert code not in page.page.content()
    assert page.page.evaluate("() => document.activeElement.tagName") == "INPUT"
    page.execute("server.keys.withdraw('alan')")


def test_an_invitations_link_goes_by_itself_and_with_the_server(lab):
    page, _ = lab
    code = invite(page, "ada").partition("#invite=")[2]
    page.page.clock.fast_forward(120_000)
    invitation(page).wait_for(state="hidden")
    assert code not in page.page.content()
    code = invite(page, "grace").partition("#invite=")[2]
    button(page, "Stop").click()
    title(page, "Model server stopped").wait_for()
    assert code not in page.page.content()
    page.execute("server.restart()\nserver.keys.withdraw('ada'); server.keys.withdraw('grace')")


def test_a_name_that_is_taken_is_told_beside_the_button(lab):
    page, _ = lab
    page.execute("server.keys.create('edsger')")
    page.page.locator(".llmapi-kit-team").evaluate("element => { element.open = true; }")
    card(page).get_by_label("Invite").fill("edsger")
    card(page).get_by_label("Invite").press("Enter")
    card(page).get_by_role("status").filter(has_text="edsger").wait_for()
    expect(invitation(page)).not_to_be_visible()
    page.execute("server.keys.revoke('edsger')")


def row(lab, name):
    return card(lab).locator("tbody tr").filter(has=lab.page.get_by_text(name, exact=True))


def test_a_teammate_who_is_on_is_seen_paused_resumed_and_revoked_after_a_second_press(lab):
    page, _ = lab
    page.execute("api_key = server.keys.create('barbara').api_key")
    page.execute(ASK.replace("server.client(", "server.client(api_key=api_key, "))
    card(page).get_by_text("Team: 1 teammate; barbara on now").wait_for()
    button(page, "Pause barbara").click()
    page.execute("while not endings: pass\nassert 'paused' in endings[0], endings")
    row(page, "barbara").get_by_text("paused").wait_for()
    button(page, "Resume barbara").click()
    button(page, "Pause barbara").wait_for()
    button(page, "Revoke barbara").click()
    page.execute("assert server.keys.list()[-1]['state'] == 'active'")
    page.page.clock.fast_forward(5_000)
    button(page, "Revoke barbara").click()  # the first press was forgotten, so this is a first one, too
    button(page, "Revoke for ever? barbara").click()
    row(page, "barbara").wait_for(state="detached")
    page.execute("assert server.keys.list()[-1]['state'] == 'revoked'")


@pytest.mark.parametrize("theme", [DARK, LIGHT])
def test_axe_finds_nothing_serious(lab, theme):
    page, _ = lab
    page.use_theme(theme)
    invite(page, "linus")
    page.execute("server.keys.create('margaret'); server.keys.pause('margaret')")
    row(page, "margaret").get_by_text("paused").wait_for()
    assert serious_faults(card(page)) == []
    button(page, "Hide").click()
    page.execute("server.keys.revoke('margaret'); server.keys.withdraw('linus')")
    page.execute(ASK)
    board(page).get_by_text("running", exact=True).wait_for()
    assert serious_faults(board(page)) == []
    page.execute("for each in server.requests(): server.cancel(each.id)")


def test_card_and_dashboard_do_everything_with_the_keyboard(lab):
    page, _ = lab
    keyboard = page.page.keyboard
    focused = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
    # A row of the test before would go while it has focus
    board(page).get_by_text("No requests are running.").wait_for()
    page.execute(ASK)
    board(page).get_by_text("running", exact=True).wait_for()
    page.page.locator(".llmapi-kit-team").evaluate("element => { element.open = true; }")
    button(page, "Copy URL").focus()
    seen = []
    while len(seen) < 30 and "Cancel request" not in (seen or [""])[-1]:
        keyboard.press("Tab")
        seen.append(page.page.evaluate(focused))
    assert seen[:3] == ["Reveal", "Copy key", "Python with openai, the key in LLMAPI_KIT_API_KEY"]
    assert {"curl, on this machine", "Make a link", "Stop", "Restart"} <= set(seen)
    keyboard.press("Enter")
    board(page).get_by_text("No requests are running.").wait_for()
    button(page, "Stop").focus()
    keyboard.press("Space")
    title(page, "Model server stopped").wait_for()
    button(page, "Restart").focus()
    keyboard.press("Enter")
    title(page, "Model server running").wait_for()
    page.page.locator(".llmapi-kit-team").evaluate("element => { element.open = true; }")
    card(page).get_by_label("Invite").focus()
    keyboard.type("dab")  # alone, letters are the notebook's commands: cut a cell, insert one
    keyboard.press("Enter")
    button(page, "Copy link").wait_for()
    assert page.page.evaluate(focused) == "Copy link"
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(invitation(page)).not_to_be_visible()
    page.execute("server.keys.withdraw('dab')")
    assert page.page.locator(".jp-Cell").count() == 2, "the notebook took a key"


def test_out_of_sight_nothing_is_sent(lab):
    page, _ = lab
    hide = "value => { Object.defineProperty(document, 'visibilityState', {value, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.page.evaluate(hide, "hidden")
    try:
        card(page).get_by_text("idle").wait_for()
        page.execute("")  # what the page sent before has been heard
        page.execute("assert not board._view.is_visible")
    finally:
        page.page.evaluate(hide, "visible")


def test_saved_reopened_and_exported_it_claims_nothing_about_now(opened, lab, jupyter, other):
    page, path = opened
    page.save()
    nb = nbformat.read(path, as_version=4)
    html, _ = HTMLExporter().from_notebook_node(nb)
    reopened = path.with_name("reopened.ipynb")
    nbformat.write(nb, reopened)
    kinds = {mime for cell in nb.cells for output in cell.outputs for mime in output.get("data", {})}
    assert kinds == {"text/plain", "text/html"}
    other.open(jupyter.address(reopened))
    other.page.get_by_text("it was running").wait_for()
    for text in (html, other.page.content()):
        assert "it was running" in text
        assert "Model server running" not in text
        assert "Error displaying widget" not in text
        assert KEY not in text
    assert other.page.locator(".llmapi-kit-card button").count() == 0


def test_another_page_on_the_same_kernel_comes_alive_too(opened, lab, jupyter, other):
    page, path = opened
    page.save()
    other.page.goto(jupyter.address(path))
    other.page.get_by_text("Model server running", exact=True).wait_for()
    other.page.locator(".llmapi-kit-dashboard canvas").first.wait_for()


def test_a_closed_dashboard_stays_as_it_was_last(lab):
    page, _ = lab
    page.execute("board.close()")
    board(page).get_by_text("As of").wait_for()
    assert "requests answered" in board(page).inner_text()
    page.execute("assert not board.is_alive()")


def test_with_its_kernel_killed_the_card_says_that_it_is_gone(lab):
    page, path = lab
    code = invite(page, "dennis").partition("#invite=")[2]
    button(page, "Reveal").click()
    button(page, "Hide").first.wait_for()
    pid_file = path.with_name("pid.json")
    page.execute(f"import json, pathlib; pathlib.Path({str(pid_file)!r}).write_text(json.dumps(os.getpid()))")
    os.kill(json.loads(pid_file.read_text()), signal.SIGKILL)
    title(page, "Model server gone").wait_for()
    assert KEY not in page.page.content()
    assert code not in page.page.content()
    expect(button(page, "Stop")).not_to_be_visible()
    page.page.locator(".jp-Dialog").get_by_role("button", name="Ok").click()  # JupyterLab says it, too
    page.errors.clear()  # the page says in its console that the kernel went


def test_missing_chromium_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(RuntimeError, match="make test"):
        find_chromium()
