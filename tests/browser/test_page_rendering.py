"""What the chat page shows: hostile answers stay text, the policy is never broken, and everybody can read it."""

from __future__ import annotations

import re

import pytest

from tests.api.conftest import serving

from .chat_engine import HOSTILE, ChatEngine
from .chat_page import ChatPage
from .chromium import DESKTOP, PHONE, new_profile

pytestmark = pytest.mark.slow

HOSTILE_TEXTS = [
    "</script><script>window.pwned = 1</script>",
    "<svg/onload=window.pwned=1><math><mi xlink:href='javascript:window.pwned=1'>",
    "[a](data:text/html,<script>window.pwned=1</script>) [b](JaVaScRiPt:window.pwned=1) <javascript:window.pwned=1>",
    "[c]: javascript:window.pwned=1\n\n[c] [d](\x01javascript:window.pwned=1) [e](vbscript:x) [f](//evil.example/x)",
    '<div style="position:fixed;inset:0;background:url(http://127.0.0.1:1/x)">x</div>',
    "| a |\n|:-:|\n| <td style='position:fixed'> |",
    "$\\style{position:fixed}{x}$ $\\url{javascript:window.pwned=1}$ $\\includegraphics{http://127.0.0.1:1/x}$",
    '$\\text{" data-style="position:fixed" x="}$ $\\fcolorbox{red}{blue}{a}$ $\\pmb{x}$ $\\color{red;position:fixed}x$',
    '```js" onmouseover="window.pwned=1\n<img src=x onerror=window.pwned=1>\n```',
    "![x](http://127.0.0.1:1/leak.png) ![y][z]\n\n[z]: http://127.0.0.1:1/leak.png",
    "\u202eevil\u202c \u200bzero \u2066isolate\u2069 \ufeff",
    "<form action=http://127.0.0.1:1/><input name=key><button>Send</button></form><base href=http://127.0.0.1:1/>",
    "$" + "{" * 500 + "x" + "}" * 500 + "$ $\\def\\a{\\a\\a}\\a$",
    "> " * 300 + "deep " + "[" * 300,
]

# All text on the page, but for formulas, in which KaTeX itself writes zero-width characters
SEEN = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let text = "";
    while (walker.nextNode()) if (!walker.currentNode.parentElement.closest(".katex")) text += walker.currentNode.data;
    return text;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), ChatEngine(name="scripted")) as made:
        yield made


@pytest.fixture(scope="module")
def chat(chromium, server):
    """One page for all of what is said here; nothing ran, and the policy was not broken."""
    with new_profile(chromium) as profile:
        page = ChatPage(profile, server.url)
        page.context.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation',"
            " (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"
        )
        page.sign_in()
        yield page
        assert page.errors == []


def check_harmless(chat):
    """That what was said is text and nothing more."""
    assert chat.page.evaluate("() => window.pwned") is None
    assert chat.page.evaluate("() => window.violations") == []
    assert [url for url in chat.urls if not url.startswith((chat.url, "data:", "blob:"))] == []
    shown = chat.locator("#messages .lk-body")
    assert shown.locator("script, img, iframe, form, input, base, style, svg [onload], object, embed").count() == 0
    links = shown.locator("a").evaluate_all("(links) => links.map((link) => [link.getAttribute('href'), link.rel])")
    assert [href for href, rel in links if not re.match(r"(https?:|mailto:|#)", href) or "noopener" not in rel] == []
    placed = "(all) => all.filter((each) => ['fixed', 'sticky'].includes(getComputedStyle(each).position)).length"
    assert shown.locator("*").evaluate_all(placed) == 0


def test_a_hostile_answer_stays_text(chat):
    chat.button("New chat").first.click()
    answer = chat.ask_and_wait("hostile")
    check_harmless(chat)
    text = answer.inner_text()
    for each in ("<script>window.pwned = 1</script>", "⟦U+202E⟧right to left⟦U+202C⟧", "zero⟦U+200B⟧width", "<iframe"):
        assert each in text
    assert "<script>window.pwned = 6</script>" in HOSTILE


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_text_does_nothing_in_questions_answers_titles_and_exports(chat, text):
    chat.button("New chat").first.click()
    chat.ask_and_wait(text)
    check_harmless(chat)
    invisible = "[\\u202e\\u200b\\u2066\\ufeff\\u0001]"
    assert re.search(invisible, chat.page.evaluate(SEEN)) is None


def test_a_line_of_a_megabyte_is_shown_as_it_is_and_the_page_goes_on(chat):
    chat.button("New chat").first.click()
    chat.ask_and_wait("line")
    assert chat.page.evaluate("() => document.querySelector('.assistant > .lk-body').textContent.length") == 1_000_000
    check_harmless(chat)
    chat.ask_and_wait("hello")
    chat.page.get_by_role("button", name=re.compile("^Delete")).first.focus()
    chat.page.keyboard.press("Enter")


def test_markdown_code_tables_and_formulas_are_drawn_under_the_strict_policy(chat):
    chat.button("New chat").first.click()
    answer = chat.ask_and_wait("rich")
    assert answer.locator("h2").inner_text() == "Integrals"
    assert answer.locator(".hljs-keyword").first.inner_text() == "def"
    assert answer.locator("table td").all_inner_texts() == ["2", "4"]
    assert answer.locator(".katex").count() == 2
    heights = answer.locator(".katex-strut").evaluate_all("(struts) => struts.map((strut) => strut.style.height)")
    assert len(heights) > 2
    assert all(re.fullmatch(r"[\d.]+em", height) for height in heights), "KaTeX's own styles are set"
    assert answer.locator(".katex math").first.evaluate("(math) => math.textContent") == "E=mc2", "read out once"
    assert answer.locator("[data-style]").count() == 0
    check_harmless(chat)


def test_roots_arrows_and_strokes_of_formulas_are_drawn(chat):
    chat.button("New chat").first.click()
    answer = chat.ask_and_wait("$\\sqrt{x} + \\overrightarrow{AB} + \\cancel{y} + \\underbrace{z}$")
    sizes = (
        "(all) => all.map((each) => { const { width, height } = each.getBoundingClientRect(); return width * height; })"
    )
    drawn = answer.locator(".katex svg :is(path, line)").evaluate_all(sizes)
    assert len(drawn) >= 6
    assert min(drawn) > 0
    check_harmless(chat)


def test_the_policy_is_enforced_where_something_would_get_through(chat):
    """That the other tests would notice: a script, a style and a picture that are put into the page do nothing."""
    chat.page.evaluate(
        "() => { const div = document.createElement('div'); document.body.append(div);"
        " div.setAttribute('style', 'position: fixed');"
        " const script = document.createElement('script'); script.text; div.append(script);"
        " const img = document.createElement('img'); img.src = 'http://127.0.0.1:1/x.png'; div.append(img); }"
    )
    chat.wait_until("() => window.violations.length >= 2")
    raised = chat.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return ''; } catch (error) { return error.name; } }"
    )
    assert raised == "TypeError", "Trusted Types are enforced"
    chat.page.evaluate("() => { document.body.lastElementChild.remove(); window.violations.length = 0; }")
    chat.errors.clear()


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(chromium, server, size, scheme):
    with new_profile(chromium, size=size, color_scheme=scheme) as profile:
        chat = ChatPage(profile, server.url)
        chat.answer_with(
            "v1/key", 200, {"name": "me", "is_owner": True, "limits": {}, "budget": None, "expires_at": None}
        )
        chat.answer_with("v1/status", 200, {"models": [], "requests": [], "keys": [], "tunnel": None, "started_at": 1})
        chat.goto()
        chat.locator("#door-key").wait_for()
        assert chat.violations() == []
        chat.sign_in()
        assert chat.violations() == []
        chat.ask_and_wait("rich")
        chat.ask_and_wait("think")
        chat.ask_and_wait("fail")
        chat.locator("summary:visible").click()
        assert chat.violations() == []
        for name in ("Settings", "Use it from code", "Server status"):
            chat.button(name).click()
            assert chat.violations() == [], name
            chat.page.keyboard.press("Escape")
        if size == PHONE:
            chat.button("Show conversations").click()
            assert chat.violations() == []
        assert chat.errors == []


def test_everything_is_done_with_the_keyboard_alone(chromium, server):
    with new_profile(chromium) as profile:
        chat = ChatPage(profile, server.url)
        chat.goto()
        chat.locator("#door-key:focus").wait_for()
        press = chat.page.keyboard.press
        chat.page.keyboard.type("sk-llmapi-test-0123456789abcdef")
        press("Enter")
        chat.locator("#question:focus").wait_for()
        chat.page.keyboard.type("one")
        press("Shift+Enter")
        chat.page.keyboard.type("two")
        press("Enter")
        chat.wait_for_answers()
        assert chat.answers.inner_text() == "You said: one two"
        seen = set()
        for _ in range(40):
            press("Shift+Tab")
            seen.add(chat.page.evaluate(FOCUSED))
        assert {"Answer again", "Copy answer", "Edit question", "Settings", "Use it from code", "Sign out"} <= seen
        assert chat.page.evaluate(OUTLINE) != "none"


FOCUSED = "() => document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
OUTLINE = "() => getComputedStyle(document.activeElement).outlineStyle"


@pytest.mark.parametrize(("locale", "shown"), [("zh-CN", "API 密钥"), ("en-GB", "API key"), ("fr-FR", "API key")])
def test_the_language_is_the_browsers_and_can_be_switched(chromium, server, locale, shown):
    with new_profile(chromium, locale=locale) as profile:
        chat = ChatPage(profile, server.url)
        chat.goto()
        chat.page.get_by_text(shown, exact=True).wait_for()
        chat.sign_in()
        select = chat.locator("#sidebar select[data-choice=language]")
        select.select_option("en")
        chat.ask_and_wait("fail")
        chat.locator(".problem", has_text="The server failed").wait_for()
        select.select_option("zh")
        chat.locator(".problem", has_text="服务器在回答时出错").wait_for()
        assert chat.page.evaluate("() => document.documentElement.lang") == "zh-Hans"
        left = chat.page.evaluate(WORDS)
        chat.page.reload()
        chat.locator("button", has_text="新对话").first.wait_for()
        assert [word for word in left if re.search("[A-Za-z]{3}", word)] == []


# All that is shown or read out, but for what people, models and programs said
WORDS = """() => {
    const hidden = "script, style, option, pre, .lk-body, .who, .told, .conversation, #title, noscript, svg";
    const texts = [...document.querySelectorAll("body *")].filter((each) => !each.closest(hidden)).flatMap((each) => [
        ...[...each.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data),
        each.getAttribute("aria-label") ?? "", each.title ?? "", each.placeholder ?? "",
    ]);
    const names = /Markdown|JSON|OpenAI|OPENAI_API_KEY|API|Top p|token|scripted|fail|curl|Python|JavaScript/g;
    return texts.map((text) => text.replace(names, "").trim()).filter(Boolean);
}"""


def test_colours_can_be_switched_and_stay(chromium, server):
    with new_profile(chromium, color_scheme="light") as profile:
        chat = ChatPage(profile, server.url)
        chat.sign_in()
        background = "() => getComputedStyle(document.documentElement).backgroundColor"
        assert chat.page.evaluate(background) == "rgb(255, 255, 255)"
        chat.locator("#sidebar select[data-choice=theme]").select_option("dark")
        assert chat.page.evaluate(background) == "rgb(23, 24, 27)"
        chat.page.reload()
        chat.question.wait_for()
        assert chat.page.evaluate(background) == "rgb(23, 24, 27)"
        assert chat.locator("#sidebar select[data-choice=theme]").input_value() == "dark"
