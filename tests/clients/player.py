"""An engine that plays the model for agents that need a cleverer one than the pocket model."""

from __future__ import annotations

import json

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.types import Accepted, Delta, Finished, ToolCallDelta

HEARD = "hello-from-the-shell"
# By name of a shell that an agent offers, the arguments that make it say something.
SHELLS = {
    "Bash": {"command": f"echo {HEARD}", "description": "Says hello."},
    "exec_command": {"cmd": f"echo {HEARD}"},
    "shell": {"command": ["echo", HEARD]},
}


class Player(MockEngine):
    """Thinks, calls the shell it is offered, and says whether it heard what it said."""

    def __init__(self):
        super().__init__(name="player")

    async def generate(self, request):
        yield Accepted(10)
        last = request.messages[-1]
        offered = [tool["function"]["name"] for tool in request.tools.tools] if request.tools else []
        shell = next((name for name in offered if name in SHELLS), None)
        if shell is not None and last["role"] != "tool":
            yield Delta("", reasoning="I should look.")
            yield Delta("", tool_calls=(ToolCallDelta(0, "call_1", shell, json.dumps(SHELLS[shell])),))
            yield Finished("tool_calls", 10, 2)
        else:
            yield Delta("It said hello." if HEARD in str(last["content"]) else "It said nothing.")
            yield Finished("stop", 10, 4)
