"""Answers as they come together from an engine's events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llmapi_kit.types import Delta, Event, Finished, TokenLogprob, ToolCallDelta


@dataclass(slots=True)
class ChatAnswer:
    """An answer as it comes together.

    Attributes:
        index: which of several.
        text: the answer, without reasoning and tool calls.
        reasoning: what it thought first.
        tool_calls: one delta each, put together.
        logprobs: one a token, where asked for.
        finished: its end; None while it is not complete.
    """

    index: int
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def finish_reason(self) -> str:
        """Why it ended."""
        if self.finished is None:
            raise RuntimeError(f"answer {self.index} is not complete")
        return self.finished.reason

    def add_call(self, call: ToolCallDelta) -> None:
        """Take a piece of a tool call."""
        if call.index == len(self.tool_calls):
            self.tool_calls.append(call)
        else:
            known = self.tool_calls[call.index]
            self.tool_calls[call.index] = replace(known, arguments=known.arguments + call.arguments)


class AnswerCollector:
    """Answers that come together from events."""

    def __init__(self, num_answers: int) -> None:
        self._answers = [ChatAnswer(index) for index in range(num_answers)]
        self._texts: list[list[str]] = [[] for _ in self._answers]

    def add(self, event: Event) -> None:
        """Take what an event brings to an answer."""
        if isinstance(event, Delta):
            answer = self._answers[event.index]
            self._texts[event.index].append(event.text)
            answer.logprobs.extend(event.logprobs)
            answer.reasoning += event.reasoning
            for call in event.tool_calls:
                answer.add_call(call)
        elif isinstance(event, Finished):
            self._answers[event.index].finished = event

    def complete(self) -> list[ChatAnswer]:
        """All answers, in order, once each has its end."""
        num_finished = sum(answer.finished is not None for answer in self._answers)
        if num_finished != len(self._answers):
            raise RuntimeError(f"The engine ended after {num_finished} of {len(self._answers)} answers.")
        for answer, pieces in zip(self._answers, self._texts, strict=True):
            answer.text = "".join(pieces)
        return self._answers
