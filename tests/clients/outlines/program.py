"""outlines: its vLLM back end, which sends `structured_outputs`, and its OpenAI back end, which sends a schema."""

from __future__ import annotations

from typing import Literal

import outlines
from openai import AsyncOpenAI, OpenAI
from outlines.inputs import Chat
from outlines.types import CFG, Regex
from pydantic import BaseModel
from steps import FRANCE, PERSON, Steps

step = Steps()
client = OpenAI(max_retries=0)
vllm = outlines.from_vllm(client, "pocket")
SETTINGS = {"temperature": 0, "max_tokens": 200}
GRAMMAR = """
start: "yes" | "no"
"""


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@step
def plain():
    return vllm(FRANCE, **SETTINGS)


@step
def stream():
    return "".join(vllm.stream(FRANCE, **SETTINGS))


@step
async def asynchronous():
    return await outlines.from_vllm(AsyncOpenAI(max_retries=0), "pocket")(FRANCE, **SETTINGS)


@step
def history():
    chat = Chat()
    chat.add_user_message("Hello!")
    chat.add_assistant_message("Hello! How can I help you?")
    chat.add_user_message(FRANCE)
    return vllm(chat, **SETTINGS)


@step
def schema():
    return Person.model_validate_json(vllm(PERSON, Person, **SETTINGS)).model_dump()


@step
def schema_stream():
    return Person.model_validate_json("".join(vllm.stream(PERSON, Person, **SETTINGS))).model_dump()


@step
def choice():
    return vllm("Is the sea blue?", Literal["yes", "no"], **SETTINGS)


@step
def regex():
    return vllm("What time is it?", Regex("[0-9]{2}:[0-9]{2}"), **SETTINGS)


@step
def number():
    return int(vllm("How old are you?", int, **SETTINGS))


@step
def grammar():
    return vllm("Is the sea blue?", CFG(GRAMMAR), **SETTINGS)


@step
def several():
    return vllm("Is the sea blue?", Literal["yes", "no"], n=2, **SETTINGS)


@step
def openai_schema():
    openai = outlines.from_openai(client, "pocket")
    return Person.model_validate_json(openai(PERSON, Person, **SETTINGS)).model_dump()


step.run()
