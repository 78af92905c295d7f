"""An engine that answers with what a test says."""

from __future__ import annotations

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.types import Accepted, Failed, Finished


class Scripted(MockEngine):
    """Answers with these deltas, and ends well or in an error."""

    def __init__(self, *deltas, reason="stop", error=None):
        super().__init__(name="scripted")
        self._deltas = deltas
        self._reason = reason
        self._error = error
        self.requests = []

    async def generate(self, request):
        self.requests.append(request)
        yield Accepted(3)
        for delta in self._deltas:
            yield delta
        if self._error is not None:
            yield Failed(self._error)
        else:
            yield Finished(self._reason, 3, len(self._deltas))
