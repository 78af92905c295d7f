"""The site that `make docs` builds: every link leads somewhere, tables come from the code, nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import mkdocs.config
import pytest

from llmapi_kit.api.openai.neutral_values import NEUTRAL
from llmapi_kit.config import Settings

from .pages import ROOT

pytestmark = pytest.mark.slow

LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site that was built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    assert "mkdocs build\n" in (ROOT / "Makefile").read_text()  # with --quiet it would not count warnings
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert (ran.returncode, "WARNING" in ran.stderr) == (0, False), ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def hooks():
    """The module of hooks, as mkdocs loads it."""
    return mkdocs.config.load_config(str(ROOT / "mkdocs.yml"))["hooks"]["tools/docs_site.py"]


class Loaded(HTMLParser):
    """What a page loads by itself."""

    def __init__(self, text):
        super().__init__()
        self.urls = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        url = dict(attrs).get(LOADING.get(tag, ""))
        if url is not None:
            self.urls.append(url)


def test_pages_load_nothing_from_other_hosts(site):
    pages = list(site.glob("*.html"))
    urls = {url for page in pages for url in Loaded(page.read_text()).urls}
    assert {url for url in urls if re.match(r"([a-z]+:)?//", url) and not url.startswith("data:")} == set()
    assert len(pages) > 15
    assert any(url.endswith(".js") for url in urls)
    assert any(url.endswith("card.png") for url in urls)


def test_every_setting_and_flag_is_on_the_page_of_settings(site):
    page = (site / "configuration.html").read_text()
    flags = {"--base-model", "--tunnel", "--load-in-8bit", "--bot"}
    assert {name for name in {*Settings.model_fields, *flags} if f"<code>{name}</code>" not in page} == set()
    assert "<td>1 to 1,024</td>" in page


def test_every_value_that_asks_for_nothing_is_on_the_page_of_fields(site):
    page = (site / "api.html").read_text()
    assert {name for name in NEUTRAL if f"<code>{name}</code>" not in page} == set()
    assert '<td><code>verbosity</code></td>\n<td><code>"medium"</code></td>' in page.replace("&quot;", '"')


def test_the_reference_has_signatures_and_examples(site):
    page = (site / "python.html").read_text()
    for name in ("load", "launch", "connect", "serve_engine", "servers", "stop_all", "run", "doctor"):
        assert re.search(rf'id="llmapi_kit\.{name}"', page), name
    assert "Examples" in page


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("[x](../CONTRIBUTING.md)", "[x](contributing.md)"),
        ("[x](../examples/backend)", "x"),
        ("[x](api.md#tools)", "[x](api.md#tools)"),
        ("[x](https://example.com/a)", "[x](https://example.com/a)"),
        ("![x](../benchmarks/results/serving.png)", "![x](images/serving.png)"),
    ],
)
def test_links_lead_to_where_a_file_is_in_the_site(hooks, markdown, expected):
    assert hooks.LINK.sub(lambda link: hooks.site_link(link, ROOT / "docs" / "index.md"), markdown) == expected


def test_a_link_to_nothing_is_a_warning_which_ends_the_build(hooks, caplog):
    link = hooks.LINK.search("[x](../nowhere.md)")
    assert hooks.site_link(link, ROOT / "docs" / "index.md") == "[x](../nowhere.md)"
    assert "docs/index.md links to ../nowhere.md" in caplog.text
    assert mkdocs.config.load_config(str(ROOT / "mkdocs.yml"))["strict"]


@pytest.mark.parametrize(
    ("markers", "problem"),
    [
        ("<!-- settings until max_slots -->", "No marker shows the settings context_length"),
        ("<!-- settings until nothing -->", "there is no such setting"),
        ("<!-- settings until max_queue -->\n<!-- settings until home -->", "another marker has it already"),
    ],
)
def test_settings_that_no_page_shows_end_the_build(hooks, markers, problem):
    with pytest.raises(Exception, match=problem):
        hooks.fill_in_settings(markers)
