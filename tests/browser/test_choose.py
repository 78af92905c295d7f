"""The chooser in a real JupyterLab in a real Chromium: searched, clicked, loading, and never in the way of the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .axe import serious_faults
from .lab import DARK, LIGHT

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


@pytest.fixture(scope="module")
def lab(jupyter, open_lab):
    """A page on a notebook that shows the chooser."""
    page = open_lab(jupyter.add_notebook("choose", choose="import llmapi_kit as kit\nchoice = kit.choose()"))
    page.run_all()
    return page


def test_axe_finds_nothing_serious_and_the_keyboard_chooses(lab):
    for theme in (DARK, LIGHT):
        lab.use_theme(theme)
        assert serious_faults(lab.outputs().first) == []
    page = lab.page
    page.get_by_role("textbox", name="Search").focus()
    page.keyboard.type("smollm2-360")
    page.keyboard.press("Tab")
    models = page.get_by_role("listbox", name="Models")
    expect(models.locator("option")).to_have_count(1)
    expect(models).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.get_by_text('kit.load("HuggingFaceTB/SmolLM2-360M-Instruct"').wait_for()
    lab.execute("assert choice.name.endswith('SmolLM2-360M-Instruct'), choice")
    assert lab.errors == []


def test_a_model_is_found_by_typing_and_loaded_by_a_click(lab):
    page = lab.page
    models, search = page.get_by_role("listbox", name="Models"), page.get_by_role("textbox", name="Search")
    for typed, name in (("qwen3-8", "Qwen/Qwen3-8B"), ("pocket", "pocket")):
        search.fill(typed)
        models.locator("option", has_text=name).wait_for(state="attached")
        expect(models.locator("option")).to_have_count(1)
        models.select_option(index=0)
        page.get_by_text(f'kit.load("{name}"').wait_for()
        assert "Apache-2.0" in lab.outputs().first.inner_text()
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_text("pocket is loaded").wait_for()
    lab.execute("assert choice.model.name == 'pocket' and kit.load(choice) is choice.model")
    assert lab.errors == []
