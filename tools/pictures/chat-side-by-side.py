# %%
import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine


def get_weather(city: str) -> str:
    """Get the weather in a city"""
    return f"18 degrees and sunny in {city}"


server = kit.launch("pocket", port=0)
# %%
both = kit.chat([server, MockEngine(name="mock", delay_s=0.02)])
both.tools(get_weather, run="always")
# %%
both.send("What is the capital of France?")
both.send("What is the weather in Paris?")
