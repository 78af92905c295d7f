"""The server's chat page in a tab of Chromium."""

from __future__ import annotations

import json
from pathlib import Path

from tests.api.conftest import KEY, wait_until

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
# Asked for before anybody has typed a key, or of a server with one key: the console calls each an error
EXPECTED = ("401 (Unauthorized)", "404 (Not Found)")
FORGET = """async () => {
    localStorage.clear();
    sessionStorage.clear();
    for (const { name } of await indexedDB.databases()) {
        await new Promise((resolve) => { indexedDB.deleteDatabase(name).onsuccess = resolve; });
    }
}"""
NUM_STORED = """(wanted) => new Promise((resolve) => {
    const asked = indexedDB.open("llmapi_kit:/:");
    asked.onsuccess = () => {
        const all = asked.result.transaction("conversations").objectStore("conversations").count();
        all.onsuccess = () => resolve(all.result === wanted);
    };
})"""


class ChatPage:
    """A tab with the page of one server.

    Args:
        context: of Playwright, see `new_profile`.
        url: of the server.

    Attributes:
        page: Playwright's page.
        errors: what the console called an error, but for the answers of the server that are expected.
        urls: of all requests.
    """

    def __init__(self, context, url):
        self.context = context
        self.url = url
        self.errors = []
        self.urls = []
        self._open_tab()

    def _open_tab(self):
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))
        self._has_own_clock = False

    def begin_anew(self):
        """Be somebody who never was here: of what was there before, only the cache is left."""
        for other in self.context.pages:
            if other is not self.page or self._has_own_clock:
                other.close()
        if self.page.is_closed():
            self._open_tab()
        self.page.unroute_all(behavior="ignoreErrors")
        self.page.goto(f"{self.url}/healthz")  # runs no script that could write while it is left
        self.page.evaluate(FORGET)
        self.context.clear_cookies()
        self.errors.clear()
        self.urls.clear()

    def install_clock(self):
        """Have the page's time go by a clock that a test may put forward. Only a new tab is rid of it."""
        self.page.clock.install()
        self._has_own_clock = True

    def _hear(self, message):
        if message.type == "error" and not message.text.endswith(tuple(f"of {each}" for each in EXPECTED)):
            self.errors.append(message.text)

    def goto(self, fragment=""):
        self.page.goto(f"{self.url}/{fragment}")

    def sign_in(self, key=KEY, *, is_remembered=False):
        """Open the page and go in with a key."""
        self.goto()
        self.locator("#door-key").fill(key)
        self.locator("#door-remember").set_checked(is_remembered)
        self.locator("#door-open").click()
        self.locator("#question").wait_for()

    def locator(self, selector, **options):
        return self.page.locator(selector, **options)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def question(self):
        return self.locator("#question")

    @property
    def answers(self):
        return self.locator(".message.assistant > .lk-body")

    def ask(self, text):
        self.question.fill(text)
        self.question.press("Enter")

    def wait_for_answers(self, number=1):
        """Until so many answers of the branch that is shown are over."""
        self.locator(".message.assistant:not(.streaming)").nth(number - 1).wait_for()
        self.button("Send").wait_for()

    def ask_and_wait(self, text):
        number = self.answers.count()
        self.ask(text)
        self.wait_for_answers(number + 1)
        return self.answers.nth(number)

    def wait_until(self, expression):
        """Until JavaScript says so. Playwright's own way evaluates text within the page, which its policy forbids."""
        wait_until(lambda: self.page.evaluate(expression))

    def wait_for_word(self, word):
        """Until the answer has come as far as this word."""
        self.wait_until(f"() => document.querySelector('.assistant > .lk-body').textContent.includes('{word} ')")

    def answer_with(self, path, status, body, **headers):
        """Let a path of the server be answered by the test."""
        text = body if isinstance(body, str) else json.dumps(body)
        media_type = "text/html" if text.startswith("<") else "application/json"

        def answer(route):
            route.fulfill(status=status, body=text, headers={"Content-Type": media_type, **headers})

        self.page.route(f"{self.url}/{path}", answer)

    def answer_themselves(self, path):
        """Let the server answer again."""
        self.page.unroute(f"{self.url}/{path}")

    def violations(self):
        """What axe finds to be seriously wrong for people who can't see or use a mouse."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE.read_text())  # by the debugger, which the page's policy does not bind
        found = self.page.evaluate("() => axe.run(document)")["violations"]
        return [
            (each["id"], [node["html"][:120] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
