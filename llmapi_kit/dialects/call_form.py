"""How a family writes tool calls: the protocol that each of the forms implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmapi_kit.dialects.base import Function
from llmapi_kit.dialects.calls import Calls
from llmapi_kit.dialects.grammar import Grammar
from llmapi_kit.dialects.text_stream import Steps


class CallForm(Protocol):
    """How a family writes tool calls. Objects of it hold no state of an answer.

    Attributes:
        starts: texts that open a call, the one the family is trained on first.
        markers: all texts of the form that may be tokens of their own.
        is_bare: a call may also stand at the very start of an answer, with nothing before it.
    """

    @property
    def starts(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def is_bare(self) -> bool:
        """See above."""
        ...

    def read(self, calls: Calls, start: str) -> Steps[bool]:
        """Read what follows `start`, which is consumed (empty for a bare call: an opening brace comes next).

        Returns:
            Whether all that was read belongs to calls. If not, what has been read since the last call's last part
            comes out as text, `start` included where no call began.
        """
        ...

    def write(self, grammar: Grammar, functions: Sequence[Function], *, parallel: bool) -> str:
        """A grammar expression for one call of one of the functions, or for one or several."""
        ...

    def write_after(self, grammar: Grammar, functions: Sequence[Function], start: str) -> str:
        """A grammar expression for what follows `start` in an answer that calls as it likes."""
        ...
