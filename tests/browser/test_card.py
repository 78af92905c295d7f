"""The server's card in a real JupyterLab in a real Chromium: drawn, revealing, copying, and never saving the key."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from .lab import SETTINGS, find_chromium, open_page, run_lab

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
KEY = "canary-0123456789-canary-0123456789"
SAVE_WIDGETS = {"@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True}}
LAUNCH = """
import os, llmapi_kit as kit
server = kit.launch("mock", port=0, api_key=os.environ["CANARY"])
server
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A page on a notebook that shows a card, and the notebook's path."""
    monkeypatch.setenv("CANARY", KEY)
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    path = root / "card.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = new_notebook(cells=[new_code_cell(LAUNCH, id="launch")], metadata={"kernelspec": kernel})
    nbformat.write(nb, path)
    with run_lab(root, scratch, {**SETTINGS, **SAVE_WIDGETS}) as address, open_page() as page:
        page.open(address(path.name))
        page.run_all()
        yield page, path


def test_key_is_shown_on_demand_hidden_again_and_never_saved(lab):
    page, path = lab
    outputs = page.outputs()
    reveal = page.page.get_by_role("button", name="Reveal", exact=True)
    shown = page.page.locator(".llmapi-kit-key")
    reveal.wait_for()
    assert "Model server running" in outputs.first.inner_text()
    assert KEY not in page.page.content()

    reveal.click()
    page.page.get_by_role("button", name="Hide", exact=True).wait_for()
    assert shown.inner_text() == KEY
    page.save()  # while the key stands in the page, and with the state of the widgets
    saved = path.read_text()
    assert "widget-view+json" in saved
    assert "widget-state+json" in saved, "the widgets' state was not saved, so it was not searched"
    assert KEY not in saved

    page.page.get_by_role("button", name="Hide", exact=True).click()
    reveal.wait_for()
    assert KEY not in page.page.content()

    page.page.get_by_role("button", name="Copy key", exact=True).click()
    page.page.get_by_text("copied", exact=True).wait_for()
    assert page.page.evaluate("() => navigator.clipboard.readText()") == KEY
    assert KEY not in page.page.content()
    page.save()
    assert KEY not in path.read_text()

    page.execute("server.stop()")
    page.page.get_by_text("Model server stopped").wait_for()  # the card above follows by itself
    reveal.click()
    page.page.get_by_text("The server is stopped.", exact=True).wait_for()
    assert KEY not in page.page.content()
    assert page.errors == []


def test_key_hides_by_itself_after_a_while(lab):
    page, _ = lab
    page.page.get_by_role("button", name="Reveal", exact=True).click()
    page.page.get_by_role("button", name="Hide", exact=True).wait_for()
    page.page.clock.fast_forward(20_000)
    page.page.get_by_role("button", name="Reveal", exact=True).wait_for(timeout=5_000)
    assert KEY not in page.page.content()


def test_missing_chromium_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(RuntimeError, match="make test"):
        find_chromium()
