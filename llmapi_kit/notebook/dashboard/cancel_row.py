"""A list of running requests to choose from and a button that cancels one, of core ipywidgets; see `PlainButtons`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmapi_kit import tables
from llmapi_kit.api.running_requests import RunningRequest
from llmapi_kit.notebook.plain_buttons import PlainButtons

NOTHING = ("No requests are running.", "")
CANCEL = "Cancel"


class CancelRow(PlainButtons):
    """What a dashboard has where no script runs.

    Args:
        cancel: ends the request of an id.
    """

    def __init__(self, cancel: Callable[[str], None]) -> None:
        import ipywidgets

        self._requests = ipywidgets.Dropdown(description="Request", options=[NOTHING])
        super().__init__({CANCEL: lambda: cancel(self._requests.value)}, before=[self._requests])
        self.update([])

    def update(self, requests: Sequence[RunningRequest]) -> None:
        """List what is under way; what was chosen stays so while it is."""
        chosen = self._requests.value
        options = [(_label(each), each.id) for each in requests] or [NOTHING]
        if list(self._requests.options) != options:
            self._requests.options = options
            ids = [value for _, value in options]
            self._requests.value = chosen if chosen in ids else ids[0]
        self.enable(CANCEL, bool(requests))


def _label(request: RunningRequest) -> str:
    tokens = f"{tables.count(request.completion_tokens)} tokens"
    return f"…{request.id[-8:]} · {request.model} · {request.state} · {tokens}"
