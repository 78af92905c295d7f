# %%
import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.types import Accepted, Delta

THOUGHT = "The integral of x² is x³/3. From 0 to 1 that is 1/3. A sum of thin strips shows it, too."
REPLY = r"""The area under $y = x^2$ from 0 to 1 is

$$\int_0^1 x^2\,dx = \left[\frac{x^3}{3}\right]_0^1 = \frac{1}{3}$$

A quick check by adding up thin strips:

```python
def area(f, a, b, n=10_000):
    width = (b - a) / n  # of one strip
    return sum(f(a + i * width) for i in range(n)) * width
```

| strips | area   |
|--------|--------|
| 10     | 0.2850 |
| 10,000 | 0.3333 |
"""


class Scripted(MockEngine):
    """Answers with what stands above, after a thought."""

    async def generate(self, request):
        async for event in super().generate(request):
            yield event
            if isinstance(event, Accepted):
                yield Delta("", reasoning=THOUGHT)


server = kit.launch(Scripted(REPLY, name="scripted", delay_s=0.01), port=0)
# %%
chat = kit.chat(server)
# %%
chat.send("What is the area under x² from 0 to 1?")
