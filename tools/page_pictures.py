"""Takes the pictures of the chat page for the documentation, in Chromium over an engine that knows its answers.

    python tools/page_pictures.py [--out FOLDER]

Needs what `make test` installs.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llmapi_kit.config import load_settings  # noqa: E402
from llmapi_kit.engines.base import GenerationRequest  # noqa: E402
from llmapi_kit.engines.mock import MockEngine  # noqa: E402
from llmapi_kit.server.server import Server  # noqa: E402
from llmapi_kit.types import Accepted, Delta, Event, Finished  # noqa: E402
from tests.browser.chat_page import ChatPage  # noqa: E402
from tests.browser.chromium import DESKTOP, PHONE, new_profile, open_chromium  # noqa: E402

KEY = "sk-llmapi-picture-0123456789abcdef"
MAX_BYTES = 200_000
MODEL = "example"
TOKENS_PER_S = 60
THOUGHT = "The integral of x² is x³/3. I show the formula, then a few lines that check it."
QUESTION = "What is the area under x² from 0 to 3? Check it in Python."
ANSWER = """The area is the integral of $x^2$:

$$\\int_0^3 x^2\\,dx = \\left[\\frac{x^3}{3}\\right]_0^3 = 9$$

A sum of thin rectangles comes close to it:

```python
def area(num_steps):
    width = 3 / num_steps
    return sum((i * width) ** 2 for i in range(num_steps)) * width

print(area(100_000))  # 8.99986...
```

| Steps | Area |
|------:|-----:|
| 10 | 7.695 |
| 1,000 | 8.987 |
| 100,000 | 9.000 |
"""
EARLIER = ("Name three rivers in France", "A haiku about a slow tunnel", "Explain KV caches to me")


class PictureEngine(MockEngine):
    """Answers the question of the pictures, and any other in a word."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """See `Engine.generate`."""
        yield Accepted(24)
        is_asked = (request.messages or [{}])[-1].get("content") == QUESTION
        if is_asked:
            yield Delta("", reasoning=THOUGHT)
        pieces = re.findall(r"\s*\S+", ANSWER if is_asked else "Gladly.")
        for piece in pieces:
            await asyncio.sleep(1 / TOKENS_PER_S if is_asked else 0)
            yield Delta(piece)
        yield Finished("stop", 24, len(pieces))


def main(argv: Sequence[str] | None = None) -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    folder: Path = parser.parse_args(argv).out
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=Path(home))
        server = Server((PictureEngine(name=MODEL),), host="127.0.0.1", port=0, api_key=KEY, settings=settings)
        server.start()
        try:
            with open_chromium() as browser:
                for name, size, scheme in (("page-desktop", DESKTOP, "light"), ("page-phone", PHONE, "dark")):
                    with new_profile(browser, size=size, color_scheme=scheme) as profile:
                        take(ChatPage(profile, server.url), folder / f"{name}.png")
        finally:
            server.stop(drain_s=0)
    return 0


def take(chat: ChatPage, path: Path) -> None:
    """One picture, of a page that was talked to.

    Raises:
        RuntimeError: the page has errors, or the picture is too large.
    """
    chat.sign_in(KEY)
    for question in EARLIER:
        chat.ask_and_wait(question)
        chat.page.evaluate("() => document.getElementById('new-chat').click()")
        chat.locator("#empty").wait_for()
    chat.ask_and_wait(QUESTION)
    chat.page.evaluate("() => { document.getElementById('log').scrollTop = 0; document.activeElement.blur(); }")
    chat.page.screenshot(path=path)
    size = path.stat().st_size
    if chat.errors or size > MAX_BYTES:
        raise RuntimeError(f"{path} has {size:,} bytes, of {MAX_BYTES:,} at most; the page's errors: {chat.errors}")
    print(f"{path}: {size / 1000:,.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
