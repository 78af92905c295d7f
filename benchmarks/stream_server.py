"""Serves streams that cost no arithmetic, for `benchmarks.overhead`: the kit's mock engine, or fixed bytes.

``mock`` is the whole kit around an engine without a model. ``fixed`` is a Starlette application that sends the same
events ready-made, on the same uvicorn with the same settings: what is left is what any server of this kind must pay.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.thread import ServerThread

EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1767225600,'
    b'"model":"mock","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
)
ENDING = (signal.SIGINT, signal.SIGTERM)
TURN = 32  # events between two turns of the event loop, as the mock engine takes them


def fixed_app(num_events: int) -> Starlette:
    """An application that sends `num_events` events to whoever asks."""

    async def events() -> AsyncIterator[bytes]:
        for number in range(num_events):
            if number % TURN == 0:
                await asyncio.sleep(0)
            yield EVENT
        yield b"data: [DONE]\n\n"

    async def answer(request: Request) -> StreamingResponse:
        await request.body()
        return StreamingResponse(events(), media_type="text/event-stream")

    async def ready(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ready")

    return Starlette(
        routes=[Route("/v1/chat/completions", answer, methods=["POST"]), Route("/readyz", ready, methods=["GET"])]
    )


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("mock", "fixed"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--num-tokens", type=int, required=True, help="in each answer")
    args = parser.parse_args()
    # Another thread may get a signal that comes while all are held still, and would not wake this one
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    if args.kind == "mock":
        # The context must hold the answer, whose length requests ask for
        engine = MockEngine("word", num_tokens=args.num_tokens, context_length=args.num_tokens + 1000)
        server = kit.launch(engine, port=args.port, api_key=os.environ["LLMAPI_KIT_API_KEY"])
        signal.sigwait(ENDING)
        server.stop(0)
    else:
        thread = ServerThread(fixed_app(args.num_tokens), host="127.0.0.1", port=args.port)
        thread.start(30)
        signal.sigwait(ENDING)
        thread.stop()


if __name__ == "__main__":
    main()
