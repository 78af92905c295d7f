"""What the openai client's tests name without having made it, and stores that put it back when it is deleted."""

from __future__ import annotations

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.responses.body import ResponsesBody
from llmapi_kit.api.responses.response import new_response
from llmapi_kit.store.completions import CompletionStore
from llmapi_kit.store.responses import ResponseStore
from llmapi_kit.store.stored_completion import StoredCompletion, encode
from llmapi_kit.store.stored_response import StoredResponse

from .client_suite import OPENAI

OWNER = KeyCheck(OPENAI.api_key).key_id
ROOM = {"max_bytes": 10_000_000, "expire_s": 86400}
# Its question is the assistant's, the only role that the client's type has.
COMPLETION = StoredCompletion(
    id="completion_id",
    owner=OWNER,
    model=OPENAI.models[0],
    body=encode(
        {"id": "completion_id", "object": "chat.completion", "created": 1, "model": OPENAI.models[0], "choices": []}
    ),
    messages=[("completion_id-0", encode({"id": "completion_id-0", "role": "assistant", "content": "Well?"}))],
)


def stored_response(response_id):
    """One that was cancelled in the background, so that it can be retrieved, followed, cancelled and deleted."""
    body = ResponsesBody.model_validate({"input": "Hello!", "background": True})
    response = new_response(body, response_id, OPENAI.models[0], is_stored=True) | {"status": "cancelled"}
    item = {"id": "msg_1", "type": "message", "role": "user", "status": "completed"}
    items = [{**item, "content": [{"type": "input_text", "text": "Hello!"}]}]
    return StoredResponse(response_id, OWNER, encode(response), encode(items))


RESPONSES = {name: stored_response(name) for name in ("resp_677efb5139a88190b512bc3fef8e535d", "response_id")}


class RestoringCompletions(CompletionStore):
    """The tests delete the same completion fifteen times."""

    async def delete(self, owner, completion_id):
        was_there = await super().delete(owner, completion_id)
        if was_there:
            await self.add(COMPLETION)
        return was_there


class RestoringResponses(ResponseStore):
    """The same for responses."""

    async def delete(self, owner, response_id):
        was_there = await super().delete(owner, response_id)
        if was_there:
            await self.add(RESPONSES[response_id])
        return was_there


async def fill(store):
    """Put into a server's store what the tests name."""
    store.completions = RestoringCompletions(store._database, max_completions=10, **ROOM)
    store.responses = RestoringResponses(store._database, max_responses=10, **ROOM)
    await store.completions.add(COMPLETION)
    for stored in RESPONSES.values():
        await store.responses.add(stored)
