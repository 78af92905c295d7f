"""pydantic-ai: agents with tools, typed outputs by each of its three ways, streams and a conversation."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from steps import FRANCE, PERSON, WEATHER, Steps

step = Steps()
SETTINGS = {"temperature": 0.0, "max_tokens": 200}
model = OpenAIChatModel("pocket")


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def agent(**options):
    return Agent(model, model_settings=SETTINGS, retries=0, **options)


def agent_with_tool(**options):
    called = []
    made = agent(**options)

    @made.tool_plain
    def get_weather(city: str) -> str:
        """Get the weather in a city"""
        called.append(city)
        return f"18 degrees and sunny in {city}"

    return made, called


@step
async def plain():
    result = await agent().run(FRANCE)
    return [result.output, result.usage.output_tokens > 0]


@step
async def stream():
    async with agent().run_stream(FRANCE) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return pieces


@step
async def history():
    first = await agent(instructions="Be brief.").run("Hello!")
    second = await agent(instructions="Be brief.").run(FRANCE, message_history=first.all_messages())
    return second.output


@step
async def tool():
    made, called = agent_with_tool()
    result = await made.run(WEATHER)
    return [called, result.output]


@step
async def tool_stream():
    made, called = agent_with_tool()
    async with made.run_stream(WEATHER) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return [called, "".join(pieces)]


async def typed(output, question=PERSON, *, with_tool=False):
    made, called = agent_with_tool(output_type=output) if with_tool else (agent(output_type=output), [])
    result = await made.run(question)
    return [called, type(result.output).__name__, result.output.model_dump()]


@step
async def native_output():
    return await typed(NativeOutput(Person))


@step
async def native_output_strict():
    return await typed(NativeOutput(Person, strict=True))


@step
async def prompted_output():
    return await typed(PromptedOutput(Person))


@step
async def tool_output():
    return await typed(ToolOutput(Person))


@step
async def tool_and_native_output():
    return await typed(NativeOutput(Person), WEATHER, with_tool=True)


@step
async def typed_stream():
    async with agent(output_type=NativeOutput(Person)).run_stream(PERSON) as result:
        *_, last = [output async for output in result.stream_output(debounce_by=None)]
    return last.model_dump()


step.run()
