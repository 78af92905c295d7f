"""The OpenAI Agents SDK with both of its models: turns, streams, tools, hand-offs and typed outputs."""

from __future__ import annotations

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from steps import FRANCE, PERSON, WEATHER, Steps

set_tracing_disabled(True)
step = Steps()
client = AsyncOpenAI(max_retries=0)
MODELS = {
    "chat": OpenAIChatCompletionsModel("pocket", client),
    "responses": OpenAIResponsesModel("pocket", client),
}
each = step.with_each(MODELS)
called = []


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@function_tool
def get_weather(city: str) -> str:
    """Get the weather in a city"""
    called.append(city)
    return f"18 degrees and sunny in {city}"


def agent(model, **options):
    called.clear()
    settings = ModelSettings(temperature=0, max_tokens=200, include_usage=True)
    return Agent(**{"name": "assistant", **options}, model=model, model_settings=settings)


async def streamed(made, question):
    """(kinds of events, the text in pieces, what came out)."""
    result = Runner.run_streamed(made, question)
    kinds, pieces = set(), []
    async for event in result.stream_events():
        kinds.add(event.type)
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            pieces.append(event.data.delta)
        elif event.type == "run_item_stream_event":
            kinds.add(event.name)
    return kinds, pieces, result.final_output


@each
async def plain(model):
    result = await Runner.run(agent(model), FRANCE)
    return [result.final_output, result.context_wrapper.usage.output_tokens > 0]


@each
async def stream(model):
    _, pieces, _ = await streamed(agent(model), FRANCE)
    return pieces


@each
async def history(model):
    first = await Runner.run(agent(model), "Hello!")
    second = await Runner.run(agent(model), [*first.to_input_list(), {"role": "user", "content": FRANCE}])
    return second.final_output


@each
async def session(model):
    kept = SQLiteSession("one")
    await Runner.run(agent(model), "Hello!", session=kept)
    return (await Runner.run(agent(model), FRANCE, session=kept)).final_output


@each
async def tool(model):
    result = await Runner.run(agent(model, tools=[get_weather]), WEATHER)
    return [list(called), result.final_output]


@each
async def tool_stream(model):
    kinds, _, output = await streamed(agent(model, tools=[get_weather]), WEATHER)
    return [list(called), output, {"tool_called", "tool_output"} <= kinds]


@each
async def typed(model):
    result = await Runner.run(agent(model, output_type=Person), PERSON)
    return result.final_output.model_dump()


@each
async def tool_and_type(model):
    result = await Runner.run(agent(model, tools=[get_weather], output_type=Person), PERSON)
    return [list(called), type(result.final_output).__name__]


@each
async def tool_called_and_type(model):
    result = await Runner.run(agent(model, tools=[get_weather], output_type=Person), WEATHER)
    return [list(called), type(result.final_output).__name__]


@each
async def tool_and_type_stream(model):
    kinds, pieces, output = await streamed(agent(model, tools=[get_weather], output_type=Person), WEATHER)
    return [list(called), "tool_called" in kinds, Person.model_validate_json("".join(pieces)) == output]


@each
async def handoff(model):
    weather = agent(model, name="weather", tools=[get_weather])
    settings = ModelSettings(temperature=0, tool_choice="transfer_to_weather")
    made = Agent(name="chief", model=model, model_settings=settings, handoffs=[weather])
    result = await Runner.run(made, WEATHER)
    return result.last_agent.name


step.run()
