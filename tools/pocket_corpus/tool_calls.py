"""Conversations with tools: when to call one, with which arguments, and what to say of its result.

Definitions vary in names, descriptions and parameters, as users write them; arguments are drawn anew each
time and have to be copied from the question.
"""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .memory import CHINESE_CITIES, CITIES, WORDS
from .nonsense import made_up_name

Message = dict[str, Any]


@dataclass(frozen=True)
class ToolUse:
    """One question that needs a tool, from the question to the sentence about the result."""

    tool: dict[str, Any]
    question: str
    arguments: dict[str, Any]
    result: str
    answer: str

    @property
    def name(self) -> str:
        """The name of the function to call."""
        return str(self.tool["function"]["name"])

    def call_message(self) -> Message:
        """Return the assistant's turn that calls the tool."""
        call = {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    def result_message(self) -> Message:
        """Return the turn that carries the tool's result."""
        return {"role": "tool", "content": self.result}


def weather(rng: random.Random) -> ToolUse:
    """Ask for the weather in a city, sometimes with a unit."""
    chinese = rng.random() < 0.25
    key = rng.choice(("city", "city", "city", "location"))
    unit = rng.choice(("celsius", "fahrenheit")) if rng.random() < 0.2 and not chinese else None
    tool = _define(
        rng,
        rng.choice(("get_weather", "get_weather", "get_weather", "get_current_weather", "weather")),
        (
            "Get the weather in a city",
            "Get the current weather",
            "Weather for a city.",
            "Return the weather of a place.",
        ),
        {
            key: _string("City name", "The city", "Name of the city"),
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        }
        if unit or rng.random() < 0.25
        else {key: _string("City name", "The city", "Name of the city", "The city, e.g. Paris")},
        (key,),
    )
    degrees = rng.randint(-15, 39)
    if chinese:
        city = rng.choice(CHINESE_CITIES)
        asked = rng.choice(
            (
                "{c}的天气怎么样？",
                "{c}今天天气怎么样？",
                "今天{c}的天气如何？",
                "{c}天气好吗？",
                "查一下{c}的天气。",
            )
        )
        sky = rng.choice(("晴", "多云", "小雨", "下雪", "大风"))
        result = {key: city, "temperature": degrees, "condition": sky}
        answer = f"{city}现在{degrees}度，{sky}。"
        return ToolUse(tool, asked.format(c=city), {key: city}, json.dumps(result, ensure_ascii=False), answer)
    city = _city(rng)
    sky = rng.choice(("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy"))
    arguments = {key: city}
    if unit:
        arguments["unit"] = unit
        asked = rng.choice(
            (
                "What is the weather in {c} in {u}?",
                "Tell me the weather in {c} in {u}.",
                "How warm is it in {c} in {u}?",
            )
        )
    else:
        asked = rng.choice(
            (
                "What is the weather in {c}?",
                "What's the weather in {c}?",
                "How is the weather in {c}?",
                "Weather in {c}?",
                "What is the weather like in {c}?",
                "What's the weather like in {c} today?",
                "Tell me the weather in {c}.",
                "Is it warm in {c}?",
                "Is it raining in {c}?",
                "How warm is it in {c}?",
                "What is the weather in {c} today?",
                "Can you check the weather in {c}?",
                "What's the weather like in {c}?",
                "How is the weather in {c} today?",
            )
        )
    place = {key: city} if rng.random() < 0.6 else {}
    result_text = rng.choice(
        (
            json.dumps({**place, "temperature": degrees, "condition": sky}),
            json.dumps({**place, "temperature": degrees, "conditions": sky}),
            json.dumps({**place, "temp": degrees, "condition": sky}),
            json.dumps({**place, "temp_c": degrees, "sky": sky}),
            json.dumps({**place, "condition": sky, "temperature": degrees}),
            f"{degrees} degrees, {sky}",
            f"{sky}, {degrees} degrees",
            f"{degrees}°C, {sky}",
            f"{degrees}C and {sky}",
        )
    )
    asked = asked.format(c=city, u=unit)
    return ToolUse(tool, asked, arguments, result_text, f"It is {degrees} degrees and {sky} in {city}.")


def clock(rng: random.Random) -> ToolUse:
    """Ask for the time in a city."""
    key = rng.choice(("city", "city", "city", "timezone", "location"))
    tool = _define(
        rng,
        rng.choice(("get_time", "get_time", "get_current_time")),
        ("Get the current time in a city", "Get the time", "Time in a city.", "Return the local time."),
        {key: _string("City name", "The city", "Name of the city")},
        (key,),
    )
    time = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
    if rng.random() < 0.2:
        city = rng.choice(CHINESE_CITIES)
        asked = rng.choice(("{c}现在几点？", "现在{c}几点了？", "{c}现在是几点？", "{c}的时间是几点？"))
        return ToolUse(tool, asked.format(c=city), {key: city}, _result(rng, "time", time), f"{city}现在是{time}。")
    city = _city(rng)
    asked = rng.choice(
        (
            "What time is it in {c}?",
            "What is the time in {c}?",
            "Tell me the time in {c}.",
            "What's the time in {c}?",
            "How late is it in {c}?",
            "What time is it in {c} now?",
            "Can you tell me the time in {c}?",
        )
    )
    return ToolUse(tool, asked.format(c=city), {key: city}, _result(rng, "time", time), f"It is {time} in {city}.")


def addition(rng: random.Random) -> ToolUse:
    """Ask for the sum of two numbers."""
    keys = rng.choice((("a", "b"), ("a", "b"), ("x", "y")))
    kind = rng.choice(("integer", "number"))
    tool = _define(
        rng,
        rng.choice(("add", "add", "add_numbers", "sum")),
        ("Add two numbers", "Adds two integers.", "Return the sum of two numbers", "Add a and b."),
        {key: {"type": kind} for key in keys},
        keys,
    )
    a, b = (rng.randrange(10 ** rng.randint(1, 4)) for _ in range(2))
    asked = rng.choice(
        (
            "What is {a} + {b}?",
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "How much is {a} + {b}?",
            "{a} + {b}",
            "Please add {a} and {b}.",
            "What is the sum of {a} and {b}?",
            "{a}加{b}等于多少？",
            "Use the tool to add {a} and {b}.",
        )
    )
    answer = f"结果是{a + b}。" if "加" in asked else f"The result is {a + b}."
    return ToolUse(
        tool,
        asked.format(a=a, b=b),
        dict(zip(keys, (a, b), strict=True)),
        _result(rng, "result", a + b),
        answer,
    )


def calculator(rng: random.Random) -> ToolUse:
    """Ask for the value of an expression."""
    tool = _define(
        rng,
        rng.choice(("calculator", "calculator", "calculate")),
        (
            "Evaluate an expression",
            "A calculator",
            "Evaluate an arithmetic expression.",
            "Calculate the value of an expression",
        ),
        {"expression": _string("The expression", "An arithmetic expression", "Expression to evaluate")},
        ("expression",),
    )
    a, b = rng.randint(2, 999), rng.randint(2, 99)
    sign = rng.choice("+-*/")
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
    expression = f"{a} {sign} {b}"
    asked = rng.choice(
        (
            "What is {e}?",
            "Calculate {e}.",
            "Compute {e}.",
            "How much is {e}?",
            "{e}",
            "Evaluate {e}.",
            "计算 {e}",
        )
    )
    answer = f"结果是{value}。" if "计算" in asked else f"The result is {value}."
    return ToolUse(tool, asked.format(e=expression), {"expression": expression}, _result(rng, "result", value), answer)


def search(rng: random.Random) -> ToolUse:
    """Ask to look something up."""
    tool = _define(
        rng,
        rng.choice(("search", "search", "web_search")),
        ("Search the web", "Search for a query.", "Find documents", "Look something up."),
        {"query": _string("The query", "What to search for", "Search query")},
        ("query",),
    )
    query = " ".join(rng.choice((*WORDS, *WORDS, made_up_name(rng))) for _ in range(rng.randint(1, 3)))
    asked = rng.choice(
        (
            "Search for {q}.",
            "Search the web for {q}.",
            "Look up {q}.",
            "Please search for {q}.",
            "Find something about {q}.",
            "Can you search for {q}?",
        )
    )
    found = " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 5))).capitalize() + "."
    result = rng.choice((found, json.dumps({"results": [found]}), json.dumps([found]), json.dumps({"result": found})))
    return ToolUse(tool, asked.format(q=query), {"query": query}, result, f"I found this: {found}")


TOOL_USES: tuple[Callable[[random.Random], ToolUse], ...] = (
    weather,
    weather,
    clock,
    addition,
    calculator,
    search,
)


def tools_around(use: ToolUse, rng: random.Random) -> list[dict[str, Any]]:
    """Return the tool that is needed, often among one or two others, in any order."""
    tools = [use.tool]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        other = rng.choice(TOOL_USES)(rng).tool
        if _family(other) not in {_family(tool) for tool in tools}:
            tools.append(other)
    rng.shuffle(tools)
    return tools


def is_calculator(tool: dict[str, Any]) -> bool:
    """Tell whether the tool could do the sums that the model does by itself without one."""
    return _family(tool) == "calculation"


def _family(tool: dict[str, Any]) -> str:
    """Group tools that could answer the same question, so that never two of them are offered at once."""
    parameters = set(tool["function"]["parameters"]["properties"])
    if "expression" in parameters or len(parameters & {"a", "b", "x", "y"}) == 2:
        return "calculation"
    return next(kind for kind in ("weather", "time", "search") if kind in tool["function"]["name"])


def _city(rng: random.Random) -> str:
    return (
        made_up_name(rng) if rng.random() < 0.25 else rng.choice((*CITIES, "New York", "San Francisco", "Los Angeles"))
    )


def _string(*descriptions: str) -> dict[str, Any]:
    return {"type": "string", "description": descriptions}


def _result(rng: random.Random, key: str, value: str | int) -> str:
    return rng.choice((str(value), str(value), json.dumps({key: value}), json.dumps(value)))


def _define(
    rng: random.Random,
    name: str,
    descriptions: tuple[str, ...],
    properties: dict[str, Any],
    required: tuple[str, ...],
) -> dict[str, Any]:
    """Write an OpenAI tool definition, with and without the parts that people leave out."""
    described = rng.random() < 0.4
    properties = {
        key: {
            part: rng.choice(value) if part == "description" else value
            for part, value in schema.items()
            if part != "description" or described
        }
        for key, schema in properties.items()
    }
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = list(required)
    if rng.random() < 0.1:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.75:
        function["description"] = rng.choice(descriptions)
    function["parameters"] = parameters
    return {"type": "function", "function": function}
