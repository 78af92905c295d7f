"""Who answers in the browser tests of the chat: the question says what comes. Kernels import it, so it stands alone."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from dataclasses import replace

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import GenerationError
from llmapi_kit.types import Accepted, Delta, Failed, Finished, ToolCallDelta

HOSTILE = """<script>window.pwned = 1</script> <img src=x onerror="window.pwned = 2"> [a](javascript:window.pwned=3)
<a href="javascript:window.pwned=4">b</a> ![c](http://127.0.0.1:1/leak.png) <style>body { display: none }</style>

$\\href{javascript:window.pwned=5}{x}$ and $\\htmlStyle{position:fixed}{y}$ and
\u202eright to left\u202c, zero\u200bwidth.

```html
<script>window.pwned = 6</script>
```

| <b>h</b> |
|---|
| <iframe src="javascript:window.pwned=7"></iframe> |
"""
RICH = """## Integrals

Some *text* with `code`, and $E = mc^2$, which costs $5 or $6.

```python
def area(width, height):
    return width * height  # of a rectangle
```

| n | square |
|---|--------|
| 2 | 4      |

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$
"""
THOUGHT = "The user greets me. I greet them back."


class ChatEngine(MockEngine):
    """Answers a question by its first word; anything else is repeated.

    Attributes:
        more: what "hold" waits for twice: with a third of its words said, and before the last one.
    """

    more = threading.Semaphore(0)

    async def generate(self, request):
        last = request.messages[-1]
        yield Accepted(11)
        if str(last["content"]).startswith("fail"):
            yield Failed(GenerationError("The model is out of ideas."))
            return
        num_tokens, reason = 0, "stop"
        async for delta in self._answer(str(last["content"]), last["role"], request):
            num_tokens += 1
            reason = "tool_calls" if delta.tool_calls else reason
            yield delta
        yield Finished(reason, 11, num_tokens)

    async def _answer(self, text, role, request):
        word, _, rest = text.partition(" ")
        if word == "wait":
            if rest:
                yield Delta(rest)
            await asyncio.sleep(3600)
        elif word == "tool" and role == "user" and request.tools:
            yield Delta("", tool_calls=(ToolCallDelta(0, "call_1", "weather", '{"city": "Paris"}'),))
        elif word == "think":
            yield Delta("", reasoning=THOUGHT)
            yield Delta("Hello!")
        elif word == "hold":
            while self.more.acquire(blocking=False):
                pass  # a test that failed may have left it
            for number in range(int(rest)):
                is_held = number in (int(rest) // 3, int(rest) - 1)
                while is_held and not self.more.acquire(blocking=False):  # noqa: ASYNC110  (a thread tells it)
                    await asyncio.sleep(0.01)
                yield Delta(f"word{number} ")
        elif word == "line":
            yield Delta("x" * 1_000_000)
        else:
            delay_s = {"count": 0.002, "slow": 0.02}.get(word, 0.001)
            for piece in re.findall(r"\s*\S+\s*", _text(word, rest, text)):
                await asyncio.sleep(delay_s)
                yield Delta(piece)


class SeeingEngine(ChatEngine):
    """Says which files it sees: of each the first bytes and the size."""

    def __init__(self, name="seeing"):
        super().__init__(name=name)
        self.info = replace(self.info, capabilities=("chat", "vision"))

    async def generate(self, request):
        parts = [part for each in request.messages if isinstance(each["content"], list) for part in each["content"]]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        files = [base64.b64decode(url.partition(",")[2]) for url in urls]
        yield Accepted(11)
        yield Delta(f"I see {len(files)}: " + ", ".join(f"{_kind(file)} of {len(file)} bytes" for file in files))
        yield Finished("stop", 11, 1)


def _kind(file):
    return "PNG" if file.startswith(b"\x89PNG") else "JPEG" if file.startswith(b"\xff\xd8") else "something"


def _text(word, rest, text):
    if word in ("count", "slow"):
        return " ".join(f"word{number}" for number in range(int(rest)))
    return {"hostile": HOSTILE, "rich": RICH}.get(word, f"You said: {text}")
