"""Remembers which replica has computed which beginnings of prompts, as its cache has them still.

A prompt is cut into blocks, and each block's key depends on all before it, so two prompts share as many keys as they
share beginning. Knows nothing of engines; not thread-safe.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from llmapi_kit.engines.base import GenerationRequest

BLOCK = 256  # characters, or token ids, of a block
MAX_BLOCKS = 64  # of a prompt, that are looked at
MAX_KEYS = 50_000
# Requests that a replica may have more than the least busy one and still get what its cache begins
MUCH_MORE = 4
TIMES_OF_ONE = 8  # that a beginning is seen of one conversation; its short turns may end in the same block


@dataclass(slots=True)
class _Block:
    """A block that was seen.

    Attributes:
        replicas: that have computed it.
        times: how often it was.
    """

    replicas: set[int] = field(default_factory=set)
    times: int = 0


class PrefixAffinity:
    """See the module.

    Args:
        max_keys: blocks that are remembered; the one that was not seen for longest is forgotten first.
    """

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._seen: OrderedDict[bytes, _Block] = OrderedDict()

    def lengths(self, keys: Sequence[bytes]) -> dict[int, int]:
        """How many blocks from the beginning each replica has seen; those that have seen none are left out."""
        lengths: dict[int, int] = {}
        for length, key in enumerate(keys, 1):
            block = self._seen.get(key)
            if block is None or not block.replicas:
                break
            lengths |= {replica: length for replica in block.replicas if lengths.get(replica, 0) == length - 1}
        return lengths

    def much_more(self, matched: Sequence[bytes], num_slots: int) -> int:
        """How many requests a replica may have more than the least busy one and still get what its cache begins.

        More for what one conversation alone has said, which no other replica has: computing it again takes longer than
        a step with some more streams. What many begin with, such as a system prompt, is soon everywhere.

        Args:
            matched: the keys that the replica has seen.
            num_slots: of a replica.
        """
        block = self._seen.get(matched[-1]) if matched else None
        is_ones_own = block is not None and block.times <= TIMES_OF_ONE
        return max(MUCH_MORE, num_slots) if is_ones_own else MUCH_MORE

    def record(self, keys: Sequence[bytes], replica: int) -> None:
        """A replica computes a prompt."""
        for key in keys:
            block = self._seen.setdefault(key, _Block())
            block.replicas.add(replica)
            block.times += 1
            self._seen.move_to_end(key)
        while len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)

    def forget(self, replica: int) -> None:
        """A replica has lost what it had computed."""
        for block in self._seen.values():
            block.replicas.discard(replica)


def block_keys(request: GenerationRequest) -> list[bytes]:
    """The keys of a request's blocks; at least one, so that equal short prompts are equal.

    Prompts of different cache salts share none, as they share no cache. The last, incomplete block of a conversation
    is left out where there are others: the next turn goes on in it.
    """
    text: Sequence[object] = _text(request) if request.messages is not None else request.prompt or ""
    blocks = [text[start : start + BLOCK] for start in range(0, min(len(text), BLOCK * MAX_BLOCKS), BLOCK)]
    if len(blocks) > 1 and len(blocks[-1]) < BLOCK:
        blocks.pop()
    keys: list[bytes] = []
    before = request.cache_salt.encode()
    for block in blocks or [""]:
        content = block if isinstance(block, str) else ",".join(map(str, block))
        before = blake2b(before + content.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        keys.append(before)
    return keys


def _text(request: GenerationRequest) -> str:
    """The beginning of a conversation, as far as it is looked at; tools first, as most templates have them."""
    parts = [json.dumps(request.tools.tools, default=str)] if request.tools is not None else []
    size = 0
    for message in request.messages or ():
        content = message.get("content")
        said = content if isinstance(content, str) else "".join(map(_piece, content or ()))
        parts.append(f"{message.get('role')}:{said[: BLOCK * MAX_BLOCKS]}")
        size += len(parts[-1])
        if size >= BLOCK * MAX_BLOCKS:
            break
    return "\n".join(parts)


def _piece(part: object) -> str:
    """A part of a message; of a picture enough to tell it from most others, as it may be large."""
    text = str(part)
    return text if len(text) < 2 * BLOCK else f"{text[:BLOCK]}{len(text)}{text[-BLOCK:]}"
