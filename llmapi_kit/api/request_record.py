"""What is known of the request that is being answered, for the log of requests and the list of running ones.

`RequestContext` makes one for each request; whoever learns something writes it there. It is found through a context
variable, which the tasks of a request share, so nothing is handed through the routes. On the server's event loop.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from llmapi_kit.api.caller import Caller


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request.

    Attributes:
        id: the X-Request-Id of its answer.
        method: of HTTP.
        path: without the query, which may hold a token.
        caller: whose key it brought; None before that is known, and where it brought none.
        model: that answers, once it is known.
        prompt_tokens: of the models that answered.
        completion_tokens: likewise.
        error: the code of the error that it ended in; empty for none.
    """

    id: str
    method: str
    path: str
    caller: Caller | None = None
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def is_keyed(self) -> bool:
        """Whether it brought a key that opens."""
        return self.caller is not None

    @property
    def key(self) -> str:
        """The name of the key that it brought; "none" where it brought none."""
        return "none" if self.caller is None else self.caller.name

    @property
    def route(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"


current_request: ContextVar[RequestRecord | None] = ContextVar("llmapi_kit_request", default=None)


def note_error(code: str | None) -> None:
    """Write down how the current request ends, if there is one."""
    record = current_request.get()
    if record is not None:
        record.error = code or "error"
