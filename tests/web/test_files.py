"""The chat page's own files: both languages say the same things, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re

import pytest

from llmapi_kit.web import FOLDER
from llmapi_kit.web.files import COMPRESSIBLE, digest, index_page, page_files

OWN = sorted(path for path in FOLDER.iterdir() if path.suffix in COMPRESSIBLE)
LANGUAGES = ("en", "zh")
KEY = r'(?:"([\w.]+)"|(\w+))'


def words(language):
    """A dictionary of the page: key to text."""
    lines = re.findall(rf'^  {KEY}: "(.*)",$', (FOLDER / f"{language}.js").read_text(encoding="utf-8"), re.MULTILINE)
    return {quoted or plain: text for quoted, plain, text in lines}


def sources():
    return "\n".join(path.read_text(encoding="utf-8") for path in OWN if path.stem not in LANGUAGES)


def test_both_languages_have_the_same_keys_and_the_same_gaps():
    en, zh = (words(language) for language in LANGUAGES)
    assert list(en) == list(zh)
    assert len(en) > 100
    for key, text in en.items():
        assert text
        assert zh[key]
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", zh[key])), key


def test_chinese_is_chinese():
    assert [key for key, text in words("zh").items() if not re.search("[\u4e00-\u9fff]", text)] == ["settings.top_p"]


def test_every_word_is_used_and_none_is_missing():
    text, known = sources(), words("en")
    groups = {key.partition(".")[0] for key in known if "." in key}
    quoted = set(re.findall(r'"([\w.]+)"', text))
    said = set(re.findall(r'(?:data-\w+-key=|\bt\(|\bsay\()"([\w.]+)"', text))
    said |= {each for each in quoted if "." in each and each.partition(".")[0] in groups}
    assert said - set(known) == set()
    composed = tuple(re.findall(r"`(\w+\.)\$\{", text))
    assert {key for key in known if key not in quoted and not key.startswith(composed)} == set()


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere_and_nothing_runs_text(path):
    text = path.read_text(encoding="utf-8")
    hosts = set(re.findall(r"https?://([\w.-]+)", text)) - {"www.w3.org"}  # the name of SVG, which nobody fetches
    assert hosts == set()
    assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)


def test_modules_stay_short():
    assert {path.name: n for path in OWN if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400} == {}


def test_every_error_that_may_happen_is_in_the_dictionary():
    api = (FOLDER / "api.js").read_text(encoding="utf-8")
    kinds = set(re.findall(r'ApiError\("(\w+)"', api)) | set(re.findall(r'\d: "(\w+)"', api))
    kinds |= {"tooLong", "refused", "failed"}
    assert {f"error.{kind}" for kind in kinds} <= set(words("en"))
    assert "unauthorized" in kinds


@pytest.mark.slow
def test_the_hash_is_in_every_address_of_the_page():
    assert index_page().decode().count(f'="web/{digest()}/') == index_page().decode().count('="web/')
    assert {"page.js", "chat.css", "lib/katex.js", "lib/fonts/KaTeX_Main-Regular.woff2"} <= set(page_files())
