"""LiteLLM: the same questions by chat completions, responses and Anthropic's messages, which it puts in one shape."""

from __future__ import annotations

import json
import os

import litellm
from steps import FRANCE, WEATHER, Steps

litellm.telemetry = False
step = Steps()
BASE, KEY = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
MODELS = {
    "chat": {"model": "openai/pocket", "api_base": BASE, "api_key": KEY},
    "responses": {"model": "openai/responses/pocket", "api_base": BASE, "api_key": KEY},
    "anthropic": {"model": "anthropic/claude-opus-5-5", "api_base": BASE.removesuffix("/v1"), "api_key": KEY},
}
each = step.with_each(MODELS)
OPTIONS = {"max_tokens": 100, "num_retries": 0}
FUNCTION = {
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]


def user(text):
    return {"role": "user", "content": text}


@each
def plain(model):
    answer = litellm.completion(messages=[user(FRANCE)], **model, **OPTIONS)
    return [answer.choices[0].message.content, answer.usage.completion_tokens > 0]


@each
def stream(model):
    chunks = litellm.completion(messages=[user(FRANCE)], stream=True, **model, **OPTIONS)
    return [chunk.choices[0].delta.content or "" for chunk in chunks]


@each
def tool(model):
    messages = [user(WEATHER)]
    message = litellm.completion(messages=messages, tools=TOOLS, **model, **OPTIONS).choices[0].message
    (call,) = message.tool_calls
    city = json.loads(call.function.arguments)["city"]
    result = {"role": "tool", "tool_call_id": call.id, "content": f"18 degrees and sunny in {city}"}
    again = litellm.completion(messages=[*messages, message, result], tools=TOOLS, **model, **OPTIONS)
    return [[city], again.choices[0].message.content]


@step
def own_responses():
    first = litellm.responses(input=FRANCE, model="openai/pocket", api_base=BASE, api_key=KEY)
    second = litellm.responses(
        input=FRANCE, previous_response_id=first.id, model="openai/pocket", api_base=BASE, api_key=KEY
    )
    return [response.output[0].content[0].text for response in (first, second)]


@step
async def own_messages():
    answer = await litellm.anthropic.messages.acreate(messages=[user(FRANCE)], max_tokens=100, **MODELS["anthropic"])
    return answer["content"][0]["text"]


step.run()
