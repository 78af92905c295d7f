"""A family's way of writing, in one value: how to read a reply, force a call, and give history back to a template.

Knows nothing of tokenizers or engines; `llmapi_kit.dialects.detection` says which dialect a template speaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmapi_kit.dialects.base import Function, Json, Reasoning, ReplyParser, functions_of
from llmapi_kit.dialects.call_form import CallForm
from llmapi_kit.dialects.grammar import Grammar
from llmapi_kit.dialects.history import HistoryForm
from llmapi_kit.dialects.reply import MarkedReply
from llmapi_kit.dialects.response_template import ResponseTemplateForm
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint

AFTER_REASONING = r"/\n{0,2}/"
# How an object starts that may be a call with nothing before it; see `json_reading.CallObject`
BARE_CALL = r'[ \n\t\r]*\{[ \n\t\r]*"(name|arguments|parameters|type|id)"[ \n\t\r]*:(?s:.*)'


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of models writes reasoning and calls.

    Attributes:
        name: of the family.
        calls: how it writes calls; None where that is not known.
        reasoning: how it marks reasoning; None where it has none.
        history: what its template wants of earlier calls and their results.
        shipped: how its tokenizer says that replies are read, where it is not known here.
    """

    name: str
    calls: CallForm | None = None
    reasoning: Reasoning | None = None
    history: HistoryForm = field(default_factory=HistoryForm)
    shipped: ResponseTemplateForm | None = None

    @property
    def has_calls(self) -> bool:
        """Whether calls are read."""
        return self.calls is not None or (self.shipped is not None and self.shipped.has_calls)

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that may be special tokens and must reach the parser though special tokens are usually hidden."""
        if self.shipped is not None:
            return self.shipped.markers
        reasoning = (self.reasoning.opening, self.reasoning.closing) if self.reasoning else ()
        return (*(self.calls.markers if self.calls else ()), *reasoning)

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether a prompt, as text, ends by opening the reasoning, so that the reply starts inside of it."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.opening.rstrip())

    def parser(self, *, tools: Sequence[Json] = (), parses_calls: bool, starts_in_reasoning: bool) -> ReplyParser:
        """A fresh parser for one answer.

        Args:
            tools: what the request offers.
            parses_calls: read calls; if not, what looks like one is text.
            starts_in_reasoning: see the method of that name.
        """
        functions = {function.name: function for function in functions_of(tools)}
        if self.shipped is not None:
            return self.shipped.parser(tools, parses_calls=parses_calls, starts_in_reasoning=starts_in_reasoning)
        calls = self.calls if parses_calls else None
        return MarkedReply(calls, functions, self.reasoning, starts_in_reasoning=starts_in_reasoning)

    def call_constraint(
        self,
        tools: Sequence[Json],
        *,
        forced: str | None,
        parallel: bool,
        added_tokens: Mapping[str, int],
        starts_in_reasoning: bool = False,
    ) -> Constraint:
        """A grammar whose texts are calls with arguments that follow the schemas, and nothing but calls.

        Where the family reasons, reasoning may come first; it must where the prompt has opened it.

        Args:
            tools: what the request offers.
            forced: the one function to call, exactly once; None for any of them.
            parallel: allow several calls, if no function is forced.
            added_tokens: the vocabulary's added tokens, special or not, by their text.
            starts_in_reasoning: see the method of that name.

        Raises:
            InvalidRequestError: no such function, or its schema can't be guaranteed in this form.
            UnsupportedFieldError: how this model writes calls is not known.
        """
        form = self._form("tool_choice")
        functions = functions_of(tools)
        if forced is not None:
            functions = tuple(function for function in functions if function.name == forced)
        if not functions:
            wanted = f"names {forced}, which is not among the tools" if forced is not None else "needs tools"
            raise InvalidRequestError(f"tool_choice {wanted}.", param="tool_choice")
        grammar = Grammar(added_tokens)
        start = form.write(grammar, functions, parallel=parallel and forced is None)
        return self._after_reasoning(grammar, start, _param_of(functions), starts_in_reasoning)

    def answer_constraint(
        self,
        answer: Constraint,
        tools: Sequence[Json],
        *,
        parallel: bool,
        added_tokens: Mapping[str, int],
        starts_in_reasoning: bool = False,
    ) -> Constraint:
        """A grammar whose texts are what `answer` allows, or else calls and nothing but calls.

        Where the family reasons, reasoning may come first, as in `call_constraint`.

        Args:
            answer: what an answer without calls must match.
            tools: what the request offers; may be empty. The arguments of strict functions follow their schema.
            parallel: allow several calls.
            added_tokens: see `call_constraint`.
            starts_in_reasoning: see the method of that name.

        Raises:
            InvalidRequestError: a schema can't be guaranteed in this form.
            UnsupportedFieldError: how this model writes calls is not known.
        """
        grammar = Grammar(added_tokens, has_json_beside=self.calls is not None and self.calls.is_bare)
        start = grammar.nested(answer)
        if tools:
            functions = _held_if_strict(functions_of(tools))
            start = grammar.choice((self._form(answer.param).write(grammar, functions, parallel=parallel), start))
        return self._after_reasoning(grammar, start, answer.param, starts_in_reasoning)

    def strict_constraint(
        self,
        tools: Sequence[Json],
        *,
        added_tokens: Mapping[str, int],
        starts_in_reasoning: bool = False,
    ) -> Constraint | None:
        """A grammar that leaves text free but holds calls to their form, and those of strict functions to the schema.

        Returns:
            None where no function is strict.

        Raises:
            InvalidRequestError: a schema can't be guaranteed in this form.
            UnsupportedFieldError: how this model writes calls is not known.
        """
        functions = functions_of(tools)
        if not any(function.is_strict for function in functions):
            return None
        form = self._form("tools")
        loose = _held_if_strict(functions)
        grammar = Grammar(added_tokens)
        start = f"{self._called(grammar, form, loose)}* {grammar.text()}"
        if form.is_bare:
            first = self._called(grammar, form, loose, but_not=BARE_CALL)
            start = grammar.choice(
                (
                    form.write(grammar, loose, parallel=True),
                    f"({first} {start})",
                    grammar.text(but_not=BARE_CALL),
                )
            )
        return self._constraint(grammar, start, _param_of(functions), starts_in_reasoning)

    def _called(self, grammar: Grammar, form: CallForm, functions: Sequence[Function], but_not: str = "") -> str:
        """Any text and a call."""
        return grammar.choice(
            f"{grammar.up_to(start, but_not=but_not)} {form.write_after(grammar, functions, start)}"
            for start in form.starts
        )

    def _form(self, param: str) -> CallForm:
        if self.calls is None:
            raise UnsupportedFieldError(
                "How this model writes tool calls is not known, so they can't be forced or held to a schema.",
                param=param,
            )
        return self.calls

    def _after_reasoning(self, grammar: Grammar, start: str, param: str, starts_in_reasoning: bool) -> Constraint:
        if self.reasoning is not None:
            start = f"{AFTER_REASONING} {start}"
        return self._constraint(grammar, start, param, starts_in_reasoning)

    def _constraint(self, grammar: Grammar, start: str, param: str, starts_in_reasoning: bool) -> Constraint:
        if self.reasoning is not None:
            thought = grammar.up_to(self.reasoning.closing)
            if not starts_in_reasoning:
                thought = f"({grammar.marker(self.reasoning.opening)} {thought})?"
            start = f"{thought} {start}"
        return Constraint(kind="lark", source=grammar.source(start), param=param)


def _held_if_strict(functions: Sequence[Function]) -> tuple[Function, ...]:
    """The functions, those that are not strict with arguments of any kind."""
    return tuple(f if f.is_strict else Function(f.name, {"type": "object"}, param=f.param) for f in functions)


def _param_of(functions: Sequence[Function]) -> str:
    return functions[0].param if len(functions) == 1 else "tools"


PLAIN = Dialect("plain")
