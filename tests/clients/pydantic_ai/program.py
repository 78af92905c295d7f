"""pydantic-ai by three APIs: agents with tools, typed outputs by each of its three ways, streams, a conversation."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from steps import FRANCE, PERSON, WEATHER, Steps

step = Steps()
SETTINGS = {"temperature": 0.0, "max_tokens": 200}
MODELS = {
    "chat": OpenAIChatModel("pocket"),
    "responses": OpenAIResponsesModel("pocket"),
    "anthropic": AnthropicModel("claude-opus-5-5"),
}
each = step.with_each(MODELS)


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def agent(model, **options):
    return Agent(model, model_settings=SETTINGS, retries=0, **options)


def agent_with_tool(model, **options):
    called = []
    made = agent(model, **options)

    @made.tool_plain
    def get_weather(city: str) -> str:
        """Get the weather in a city"""
        called.append(city)
        return f"18 degrees and sunny in {city}"

    return made, called


@each
async def plain(model):
    result = await agent(model).run(FRANCE)
    return [result.output, result.usage.output_tokens > 0]


@each
async def stream(model):
    async with agent(model).run_stream(FRANCE) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return pieces


@each
async def history(model):
    first = await agent(model, instructions="Be brief.").run("Hello!")
    second = await agent(model, instructions="Be brief.").run(FRANCE, message_history=first.all_messages())
    return second.output


@each
async def tool(model):
    made, called = agent_with_tool(model)
    result = await made.run(WEATHER)
    return [called, result.output]


@each
async def tool_stream(model):
    made, called = agent_with_tool(model)
    async with made.run_stream(WEATHER) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return [called, "".join(pieces)]


async def typed(model, output, question=PERSON, *, with_tool=False):
    made, called = agent_with_tool(model, output_type=output) if with_tool else (agent(model, output_type=output), [])
    result = await made.run(question)
    return [called, type(result.output).__name__, result.output.model_dump()]


@each
async def native_output(model):
    return await typed(model, NativeOutput(Person))


@each
async def native_output_strict(model):
    return await typed(model, NativeOutput(Person, strict=True))


@each
async def prompted_output(model):
    return await typed(model, PromptedOutput(Person))


# By the anthropic API it does not force the call, which the pocket model then does not make
@step.with_each({name: MODELS[name] for name in ("chat", "responses")})
async def tool_output(model):
    return await typed(model, ToolOutput(Person))


@each
async def tool_and_native_output(model):
    return await typed(model, NativeOutput(Person), WEATHER, with_tool=True)


@each
async def typed_stream(model):
    async with agent(model, output_type=NativeOutput(Person)).run_stream(PERSON) as result:
        *_, last = [output async for output in result.stream_output(debounce_by=None)]
    return last.model_dump()


step.run()
