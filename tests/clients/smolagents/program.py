"""smolagents: its model client, an agent that calls tools, and one that writes code."""

from __future__ import annotations

import os

from pydantic import BaseModel
from smolagents import CodeAgent, LogLevel, OpenAIServerModel, ToolCallingAgent, tool
from smolagents.agents import EMPTY_PROMPT_TEMPLATES
from smolagents.models import ChatMessage, MessageRole
from steps import FRANCE, PERSON, WEATHER, Steps

step = Steps()
called = []


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city

    Args:
        city: the city
    """
    called.append(city)
    return f"18 degrees and sunny in {city}"


def model(**options):
    access = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
    settings = {"temperature": 0, "max_tokens": 200, **options}
    return OpenAIServerModel("pocket", client_kwargs={"max_retries": 0}, **access, **settings)


def said(text, role=MessageRole.USER):
    return ChatMessage(role=role, content=[{"type": "text", "text": text}])


@step
def plain():
    answer = model()([said(FRANCE)])
    return [answer.content, answer.token_usage.output_tokens > 0]


@step
def stream():
    return "".join(delta.content or "" for delta in model().generate_stream([said(FRANCE)]))


@step
def history():
    hello = [said("Hello!"), said("Hello! How can I help you?", MessageRole.ASSISTANT)]
    return model()([*hello, said(FRANCE)]).content


@step
def schema():
    schema = {"name": "person", "strict": True, "schema": {**Person.model_json_schema(), "additionalProperties": False}}
    answer = model()([said(PERSON)], response_format={"type": "json_schema", "json_schema": schema})
    return Person.model_validate_json(answer.content).model_dump()


@step
def tool_call():
    (call,) = model()([said(WEATHER)], tools_to_call_from=[get_weather]).tool_calls
    return call.function.name


def calls_of(made):
    """(tool, problem) of each step in which an agent called one."""
    made.run(WEATHER)
    steps = [each for each in made.memory.steps if getattr(each, "tool_calls", None)]
    return [[call.name, str(each.error or "")] for each in steps for call in each.tool_calls]


@step
def agent():
    made = ToolCallingAgent([get_weather], model(), max_steps=2, verbosity_level=LogLevel.OFF)
    return calls_of(made)


@step
def agent_stream():
    options = {"max_steps": 2, "verbosity_level": LogLevel.OFF, "stream_outputs": True}
    return calls_of(ToolCallingAgent([get_weather], model(), **options))


@step
def code_agent():
    templates = {**EMPTY_PROMPT_TEMPLATES, "system_prompt": "Answer with a thought and Python code."}
    options = {"max_steps": 1, "verbosity_level": LogLevel.OFF, "use_structured_outputs_internally": True}
    made = CodeAgent([], model(max_tokens=400), prompt_templates=templates, **options)
    made.run(FRANCE)
    return made.memory.steps[1].model_output


step.run()
