"""AutoGen: its model client, agents with tools and typed outputs, a team of two, streams."""

from __future__ import annotations

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import ModelClientStreamingChunkEvent, StructuredMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import AssistantMessage, ModelInfo, SystemMessage, UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel
from steps import FRANCE, PERSON, WEATHER, Steps

step = Steps()
INFO = ModelInfo(
    vision=False, function_calling=True, json_output=True, structured_output=True, family="unknown",
    multiple_system_messages=True,
)  # fmt: skip
client = OpenAIChatCompletionClient(model="pocket", model_info=INFO, temperature=0, max_tokens=200, max_retries=0)
called = []


class Person(BaseModel):
    """A person."""

    name: str
    age: int


async def get_weather(city: str) -> str:
    """Get the weather in a city"""
    called.append(city)
    return f"18 degrees and sunny in {city}"


def strict_tool():
    """The tool as it has to be beside a typed output."""
    return FunctionTool(get_weather, "Get the weather in a city", strict=True)


def agent(name="assistant", **options):
    called.clear()
    return AssistantAgent(name, model_client=client, **{"system_message": None, **options})


@step
async def plain():
    result = await client.create([UserMessage(content=FRANCE, source="user")])
    return [result.content, result.finish_reason, result.usage.completion_tokens > 0]


@step
async def stream():
    pieces = [each async for each in client.create_stream([UserMessage(content=FRANCE, source="user")])]
    return [each for each in pieces if isinstance(each, str)]


@step
async def history():
    messages = [
        SystemMessage(content="You are a helpful assistant."),
        UserMessage(content="Hello!", source="user"),
        AssistantMessage(content="Hello! How can I help you?", source="assistant"),
        UserMessage(content=FRANCE, source="user"),
    ]
    return (await client.create(messages)).content


@step
async def json_output():
    answer = await client.create([UserMessage(content=PERSON, source="user")], json_output=Person)
    return Person.model_validate_json(answer.content).model_dump()


@step
async def default_agent():
    made = AssistantAgent("assistant", model_client=client)
    result = await made.run(task=FRANCE)
    return [type(message).__name__ for message in result.messages]


@step
async def agent_twice():
    made = agent()
    await made.run(task="Hello!")
    return (await made.run(task=FRANCE)).messages[-1].content


@step
async def agent_stream():
    events = agent(model_client_stream=True).run_stream(task=FRANCE)
    return [event.content async for event in events if isinstance(event, ModelClientStreamingChunkEvent)]


@step
async def tool():
    result = await agent(tools=[get_weather], reflect_on_tool_use=True).run(task=WEATHER)
    return [list(called), result.messages[-1].content]


@step
async def tool_and_type():
    made = agent(tools=[strict_tool()], output_content_type=Person)
    result = await made.run(task=WEATHER)
    last = result.messages[-1]
    return [list(called), isinstance(last, StructuredMessage), type(last.content).__name__]


@step
async def tool_and_type_stream():
    made = agent(tools=[strict_tool()], output_content_type=Person, model_client_stream=True)
    *_, result = [event async for event in made.run_stream(task=WEATHER)]
    return [list(called), type(result.messages[-1].content).__name__]


@step
async def team():
    both = RoundRobinGroupChat([agent("first"), agent("second")], termination_condition=MaxMessageTermination(3))
    result = await both.run(task=FRANCE)
    return [[message.source for message in result.messages], all(isinstance(m, TextMessage) for m in result.messages)]


step.run()
