"""Puts questions together into whole conversations, in the shares the model is trained on.

A conversation is a list of messages in the OpenAI form, with its tools beside it. Held-out phrasings never
get in, not even when a small change to another phrasing happens to produce one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from . import (
    arithmetic,
    counting,
    facts_chinese,
    facts_english,
    json_answers,
    kit_help,
    memory,
    nonsense,
    personas,
    small_talk,
    stories,
    tool_calls,
)
from .augment import vary
from .question import Question, Split, normalise

Message = dict[str, Any]
WEATHER_WITHOUT_TOOL = (
    "What is the weather in {c}?",
    "What's the weather like in {c}?",
    "How is the weather in {c} today?",
)
NO_WEATHER = "I cannot look up the weather without a tool."
# Questions of these themes come in hundreds and are easy: fewer of each are needed.
THEME_WEIGHTS = {"arithmetic": 0.25, "stories": 1.5}


@dataclass
class Conversation:
    """Messages and, where the user offers any, tools."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)


@cache
def questions() -> tuple[Question, ...]:
    """Return every question of the corpus.

    Raises:
        ValueError: Two questions share an id or a phrasing.
    """
    themes = (small_talk, kit_help, facts_english, facts_chinese, stories, counting, arithmetic, json_answers)
    found = tuple(question for theme in themes for question in theme.questions())
    owners: dict[str, str] = {}
    ids: set[str] = set()
    for question in found:
        if question.question_id in ids:
            raise ValueError(f"Two questions are called {question.question_id!r}.")
        ids.add(question.question_id)
        for text in question.phrasings:
            # Arithmetic differs by its signs, which normalising would drop.
            key = text if question.theme == "arithmetic" else normalise(text)
            if owners.setdefault(key, question.question_id) != question.question_id:
                raise ValueError(f"{text!r} is asked by {question.question_id!r} and by {owners[key]!r}.")
    return found


def question_splits() -> list[Split]:
    """Return `(question_id, language, train_phrasings, held_out_phrasings, answer)` for every question."""
    return [question.split for question in questions()]


@cache
def _held_out() -> frozenset[str]:
    return frozenset(normalise(text) for split in question_splits() for text in split.held_out_phrasings)


def conversations(seed: int) -> Iterator[Conversation]:
    """Yield training conversations without end; the same seed yields the same ones."""
    rng = random.Random(seed)
    makers: tuple[tuple[Callable[[random.Random], Conversation], float], ...] = (
        (_chat, 0.38),
        (_remembering, 0.19),
        (_in_character, 0.11),
        (_with_tools, 0.18),
        (_long_chat, 0.02),
        (_copying, 0.12),
    )
    kinds, shares = zip(*makers, strict=True)
    while True:
        yield rng.choices(kinds, shares)[0](rng)


def ask(question: Question, rng: random.Random) -> str:
    """Return a trained phrasing of the question, perhaps changed a little, never a held-out one."""
    phrasings = question.split.train_phrasings
    for _ in range(8):
        text = vary(rng.choice(phrasings), question.language, question.theme, rng)
        if question.theme == "arithmetic" or normalise(text) not in _held_out():
            return text
    return phrasings[0]


@cache
def _question_weights() -> list[float]:
    return [THEME_WEIGHTS.get(question.theme, 1.0) for question in questions()]


def _draw(rng: random.Random) -> Question:
    return rng.choices(questions(), _question_weights())[0]


def _turn(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _exchange(rng: random.Random) -> list[Message]:
    """One question and its answer, of any kind that needs no context."""
    kind = rng.random()
    if kind < 0.80:
        question = _draw(rng)
        return _turn(ask(question, rng), question.answer)
    if kind < 0.88:
        return _turn(*nonsense.gibberish(rng))
    if kind < 0.93:
        return _turn(*nonsense.unknown(rng))
    if kind < 0.96:
        return _turn(*json_answers.filled(rng))
    if kind < 0.97:
        return _turn(rng.choice(WEATHER_WITHOUT_TOOL).format(c=rng.choice(memory.CITIES)), NO_WEATHER)
    return _turn(*memory.echo(rng))


def _system(rng: random.Random) -> list[Message]:
    if rng.random() < 0.65:
        return []
    return [{"role": "system", "content": rng.choice(personas.PLAIN_PROMPTS)}]


def _chat(rng: random.Random) -> Conversation:
    messages = _system(rng)
    for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 2, 2, 3, 4))):
        messages += _exchange(rng)
    return Conversation(messages)


def _long_chat(rng: random.Random) -> Conversation:
    """A long conversation of short exchanges, in which something is told early and asked late."""
    fact = rng.choice(memory.FACTS)
    value = memory.draw_value(fact, rng)
    messages = _system(rng) + _turn(rng.choice(fact.statements).format(v=value), fact.reply.format(v=value))
    for _ in range(rng.randint(8, 22)):
        messages += _short_exchange(rng)
    messages += _turn(rng.choice(fact.questions), fact.answer.format(v=value))
    return Conversation(messages)


def _short_exchange(rng: random.Random) -> list[Message]:
    while True:
        exchange = _exchange(rng)
        if len(exchange[1]["content"]) < 130:
            return exchange


def _copying(rng: random.Random) -> Conversation:
    messages = _system(rng)
    for _ in range(rng.choice((1, 2, 3))):
        messages += _turn(*(memory.echo(rng) if rng.random() < 0.65 else json_answers.filled(rng)))
    return Conversation(messages)


def _remembering(rng: random.Random) -> Conversation:
    """One to three facts told, other talk in between, then all asked in any order; or asked untold."""
    messages = _system(rng)
    language = rng.choice(("en", "en", "zh"))
    facts = [fact for fact in memory.FACTS if fact.language == language]
    weights = [3 if fact.kind == "name" else 2 if fact.kind == "number" else 1 for fact in facts]
    told: list[memory.Fact] = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        fact = rng.choices(facts, weights)[0]
        if fact not in told:
            told.append(fact)
    if rng.random() < 0.15:
        for _ in range(rng.choice((0, 0, 1, 2))):
            messages += _short_exchange(rng)
        return Conversation(messages + _turn(_asked(told[0], rng), told[0].unknown))
    values = [memory.draw_value(fact, rng) for fact in told]
    if rng.random() < 0.15:
        fact, value = told[0], values[0]
        text = f"{rng.choice(fact.statements).format(v=value)} {rng.choice(fact.questions)}"
        return Conversation(messages + _turn(text, fact.answer.format(v=value)))
    for fact, value in zip(told, values, strict=True):
        statement = rng.choice(fact.statements).format(v=value)
        if rng.random() < 0.2:
            statement = statement.rstrip(".!。")
        messages += _turn(statement, fact.reply.format(v=value))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
            messages += _short_exchange(rng)
    pairs = list(zip(told, values, strict=True))
    rng.shuffle(pairs)
    for fact, value in pairs:
        messages += _turn(_asked(fact, rng), fact.answer.format(v=value))
    return Conversation(messages)


def _asked(fact: memory.Fact, rng: random.Random) -> str:
    return vary(rng.choice(fact.questions), fact.language, "small_talk", rng)


def _in_character(rng: random.Random) -> Conversation:
    persona = rng.choice(personas.PERSONAS)
    messages: list[Message] = [{"role": "system", "content": rng.choice(persona.prompts[:-1])}]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        answer = None
        while answer is None:
            question = _draw(rng)
            answer = persona.answer(question)
        messages += _turn(ask(question, rng), answer)
    return Conversation(messages)


def _with_tools(rng: random.Random) -> Conversation:
    """A tool used once or twice, or offered and not needed."""
    use = rng.choice(tool_calls.TOOL_USES)(rng)
    tools = tool_calls.tools_around(use, rng)
    messages = _system(rng)
    calculates = any(tool_calls.is_calculator(tool) for tool in tools)
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        messages += _needs_no_tool(calculates, rng)
    if rng.random() < 0.3:
        return Conversation(messages + _needs_no_tool(calculates, rng), tools)
    messages += [{"role": "user", "content": use.question}, use.call_message()]
    if rng.random() < 0.7:
        messages += [use.result_message(), {"role": "assistant", "content": use.answer}]
        if rng.random() < 0.2:
            messages += _needs_no_tool(calculates, rng)
    return Conversation(messages, tools)


def _needs_no_tool(calculates: bool, rng: random.Random) -> list[Message]:
    """An exchange about something none of the tools is for."""
    while True:
        exchange = _short_exchange(rng)
        text = exchange[0]["content"]
        if exchange[1]["content"] == NO_WEATHER or (calculates and any(sign.isdigit() for sign in text)):
            continue
        if calculates and any(word in text for word in ("加", "减", "乘")):
            continue
        return exchange
