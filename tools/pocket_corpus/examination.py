"""What the model is measured on, and how: cases, batched greedy answers, and the share of right ones.

The cases draw their names, numbers and gibberish from seeds training does not use. Torch is imported by the
one function that needs it, so that the cases can be read without it.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import json_answers, memory, nonsense, personas, tool_calls
from .conversations import questions
from .question import Question

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, Any]
TOOL_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """One thing to ask and the one right answer.

    Attributes:
        category: What it is counted under, for instance `held-out` or `tool call`.
        group: A finer heading, for instance the theme and the language.
        messages: The conversation up to the answer.
        expected: The exact text, or the call's name and arguments.
        tools: Offered to the model.
    """

    category: str
    group: str
    messages: list[Message]
    expected: str | dict[str, Any]
    tools: list[dict[str, Any]] = field(default_factory=list)

    def is_right(self, answer: str) -> bool:
        """Compare an answer with the expected one: calls by their parsed content, text exactly."""
        if isinstance(self.expected, str):
            return answer == self.expected
        return parse_call(answer) == self.expected


@dataclass(frozen=True)
class Graded:
    """A case, what the model said, and whether it ended its turn by itself."""

    case: Case
    answer: str
    is_ended: bool

    @property
    def is_right(self) -> bool:
        """Tell whether the answer is the expected one."""
        return self.case.is_right(self.answer)


def parse_call(answer: str) -> dict[str, Any] | None:
    """Return the first tool call in an answer as `{"name", "arguments"}`, or None."""
    match = TOOL_CALL.search(answer)
    try:
        return json.loads(match.group(1)) if match else None
    except json.JSONDecodeError:
        return None


def phrasing_cases() -> list[Case]:
    """Return every phrasing of every question, trained on or held out."""
    cases = []
    for question in questions():
        split = question.split
        for category, phrasings in (
            ("trained", split.train_phrasings),
            ("held-out", split.held_out_phrasings),
        ):
            for text in phrasings:
                group = f"{question.theme} {question.language}"
                cases.append(Case(category, group, _asking(text), split.answer))
    return cases


def skill_cases(num_each: int = 150) -> list[Case]:
    """Return fresh cases of what has to be copied, judged or put in another form, `num_each` of a kind."""
    makers = (
        _memory_case,
        _untold_case,
        _persona_case,
        _json_object_case,
        _json_filled_case,
        _tool_call_case,
        _tool_result_case,
        _tool_not_needed_case,
        _gibberish_case,
        _unknown_case,
        _echo_case,
        _second_turn_case,
    )
    return [make(random.Random(f"{make.__name__} {i}")) for make in makers for i in range(num_each)]


def _asking(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _pair(asked: str, answered: str) -> list[Message]:
    return [*_asking(asked), {"role": "assistant", "content": answered}]


def _trained_pair(rng: random.Random) -> list[Message]:
    question = _short_question(rng)
    return _pair(rng.choice(question.split.train_phrasings), question.answer)


def _short_question(rng: random.Random) -> Question:
    while True:
        question = rng.choice(questions())
        if len(question.answer) < 100 and question.theme != "arithmetic":
            return question


def _memory_case(rng: random.Random) -> Case:
    fact = rng.choice([fact for fact in memory.FACTS if fact.kind in ("name", "number")])
    value = memory.draw_value(fact, rng)
    messages = _pair(rng.choice(fact.statements).format(v=value), fact.reply.format(v=value))
    for _ in range(rng.randint(0, 3)):
        messages += _trained_pair(rng)
    messages += _asking(rng.choice(fact.questions))
    return Case("memory", f"{fact.kind} {fact.language}", messages, fact.answer.format(v=value))


def _untold_case(rng: random.Random) -> Case:
    fact = rng.choice(memory.FACTS)
    messages = [message for _ in range(rng.randint(0, 2)) for message in _trained_pair(rng)]
    return Case("not told", fact.kind, messages + _asking(rng.choice(fact.questions)), fact.unknown)


def _persona_case(rng: random.Random) -> Case:
    persona = rng.choice(personas.PERSONAS)
    prompt_is_new = rng.random() < 0.2
    prompt = persona.prompts[-1] if prompt_is_new else rng.choice(persona.prompts[:-1])
    answer = None
    while answer is None:
        question = rng.choice(questions())
        answer = persona.answer(question)
    messages = [{"role": "system", "content": prompt}, *_asking(rng.choice(question.split.train_phrasings))]
    return Case("persona", "unseen prompt" if prompt_is_new else "trained prompt", messages, answer)


def _json_object_case(rng: random.Random) -> Case:
    question = rng.choice(json_answers.questions())
    return Case("JSON", "object", _asking(rng.choice(question.phrasings)), question.answer)


def _json_filled_case(rng: random.Random) -> Case:
    asked, answer = json_answers.filled(rng)
    return Case("JSON", "filled", _asking(asked), answer)


def _tool_call_case(rng: random.Random) -> Case:
    use = rng.choice(tool_calls.TOOL_USES)(rng)
    expected = {"name": use.name, "arguments": use.arguments}
    return Case("tool call", use.name, _asking(use.question), expected, tool_calls.tools_around(use, rng))


def _tool_result_case(rng: random.Random) -> Case:
    use = rng.choice(tool_calls.TOOL_USES)(rng)
    messages = [*_asking(use.question), use.call_message(), use.result_message()]
    return Case("tool result", use.name, messages, use.answer, tool_calls.tools_around(use, rng))


def _tool_not_needed_case(rng: random.Random) -> Case:
    question = _short_question(rng)
    tool = tool_calls.weather(rng).tool
    return Case("tool not needed", "", _asking(rng.choice(question.split.train_phrasings)), question.answer, [tool])


def _gibberish_case(rng: random.Random) -> Case:
    asked, answer = nonsense.gibberish(rng)
    return Case("gibberish", "", _asking(asked), answer)


def _unknown_case(rng: random.Random) -> Case:
    asked, answer = nonsense.unknown(rng)
    return Case("unknown", "", _asking(asked), answer)


def _echo_case(rng: random.Random) -> Case:
    asked, answer = memory.echo(rng)
    return Case("echo", "", _asking(asked), answer)


def _second_turn_case(rng: random.Random) -> Case:
    messages = [message for _ in range(rng.randint(1, 5)) for message in _trained_pair(rng)]
    question = _short_question(rng)
    return Case("later turn", "", messages + _asking(rng.choice(question.split.train_phrasings)), question.answer)


def take(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cases: Sequence[Case], *, batch_size: int = 64
) -> list[Graded]:
    """Answer all cases greedily, in batches of about the same length, and grade them.

    The limit of an answer is half as long again as the expected one, so that a runaway answer is cut and
    counted as not ended.
    """
    import torch

    prompts = [
        tokenizer.apply_chat_template(
            case.messages, tools=case.tools or None, add_generation_prompt=True, return_dict=False
        )
        for case in cases
    ]
    lengths = [len(tokenizer(_as_text(case.expected), add_special_tokens=False)["input_ids"]) for case in cases]
    graded: dict[int, Graded] = {}
    order = sorted(range(len(cases)), key=lambda i: (lengths[i] // 8, len(prompts[i])))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in batch)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in batch])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch])
        limit = int(max(lengths[i] for i in batch) * 1.5) + 16
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=False)[:, width:].tolist()
        for i, answer in zip(batch, out, strict=True):
            is_ended = tokenizer.eos_token_id in answer
            said = answer[: answer.index(tokenizer.eos_token_id)] if is_ended else answer
            graded[i] = Graded(cases[i], tokenizer.decode(said, skip_special_tokens=True), is_ended)
    return [graded[i] for i in range(len(cases))]


def _as_text(expected: str | dict[str, Any]) -> str:
    return expected if isinstance(expected, str) else json.dumps(expected) + " " * 24


def shares(graded: Iterable[Graded]) -> dict[str, tuple[float, int]]:
    """Return, per category and per `category / group`, the share of right answers and the number of cases."""
    right: dict[str, list[bool]] = defaultdict(list)
    for one in graded:
        right[one.case.category].append(one.is_right)
        if one.case.group:
            right[f"{one.case.category} / {one.case.group}"].append(one.is_right)
            language = one.case.group.rsplit(" ", 1)[-1]
            if one.case.category in ("trained", "held-out"):
                right[f"{one.case.category} / all {language}"].append(one.is_right)
                if not one.case.group.startswith("arithmetic"):
                    right[f"{one.case.category} / without sums"].append(one.is_right)
        right["ends by itself"].append(one.is_ended)
    return {name: (sum(values) / len(values), len(values)) for name, values in sorted(right.items())}
