"""Which replica a request goes to: the one whose cache begins as its prompt does, unless that has much more to do.

What Ray Serve asks for each request, in the process that sends it. Each such process learns for itself what the
replicas have computed; where it knows nothing, all of them choose alike.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.prefix_affinity import PrefixAffinity, block_keys

ON_ITS_WAY_S = 0.5  # then a request that was not taken waits, or is gone


class PrefixAwareRouter(RequestRouter):
    """See the module. Made by Serve."""

    # Until the next one is asked. Serve waits 0.1 s, which busy ones exceed; without its cache a prompt lasts longer
    queue_len_response_deadline_s = 1.0

    def initialize_state(self, num_slots: int = 0) -> None:
        """Take the router's own arguments.

        Args:
            num_slots: of a replica.
        """
        self._num_slots = num_slots
        self._affinity = PrefixAffinity()
        self._counter = count()
        self._chosen: dict[str, tuple[ReplicaID, float]] = {}
        self._numbers: dict[ReplicaID, int] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas, the best first: the next one is asked where one is full."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # after all of them were full
        keys = _keys_of(pending_request)
        lengths = self._affinity.lengths(keys)
        busy = self._num_requests(candidate_replicas)
        least = min(busy.values(), default=0)

        def rank(replica: RunningReplica) -> tuple[bool, int, int, bytes]:
            replica_id = replica.replica_id
            length = lengths.get(self._number(replica_id), 0)
            is_near = busy[replica_id] <= least + self._affinity.much_more(keys[:length], self._num_slots)
            return not is_near, -length if is_near else 0, busy[replica_id], _lot(keys, replica_id)

        ranked = sorted(candidate_replicas, key=rank)
        if pending_request is not None and ranked:
            self._chosen[_id_of(pending_request)] = ranked[0].replica_id, time.monotonic()
        return [[replica] for replica in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """A replica took a request: from now on it has its prompt."""
        self._chosen.pop(_id_of(pending_request), None)
        self._affinity.record(_keys_of(pending_request), self._number(replica_id))

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A replica has lost what it had."""
        super().on_replica_actor_died(replica_id)
        self._forget(replica_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Replicas came or went."""
        super().update_replicas(replicas)
        for replica_id in self._numbers.keys() - {each.replica_id for each in replicas}:
            self._forget(replica_id)

    def _num_requests(self, replicas: Sequence[RunningReplica]) -> dict[ReplicaID, int]:
        """What each has to do, with what is on its way there: of many that come at once none is counted yet."""
        oldest = time.monotonic() - ON_ITS_WAY_S
        self._chosen = {key: value for key, value in self._chosen.items() if value[1] > oldest}
        on_their_way = Counter(replica_id for replica_id, _ in self._chosen.values())
        known = self.replica_queue_len_cache
        return {
            each.replica_id: int(known.get(each.replica_id) or 0) + on_their_way[each.replica_id] for each in replicas
        }

    def _number(self, replica_id: ReplicaID) -> int:
        if replica_id not in self._numbers:
            self._numbers[replica_id] = next(self._counter)
        return self._numbers[replica_id]

    def _forget(self, replica_id: ReplicaID) -> None:
        number = self._numbers.pop(replica_id, None)
        if number is not None:
            self._affinity.forget(number)


def _id_of(pending_request: PendingRequest) -> str:
    return str(pending_request.metadata.internal_request_id)


def _keys_of(pending_request: PendingRequest | None) -> list[bytes]:
    """Keys of the prompt's beginning; none of a request that has no prompt."""
    first = pending_request.args[0] if pending_request is not None and pending_request.args else None
    return block_keys(first) if isinstance(first, GenerationRequest) else []


def _lot(keys: Sequence[bytes], replica_id: ReplicaID) -> bytes:
    """Where nothing else tells two replicas apart, this does, and for one beginning always in the same way."""
    return blake2b(replica_id.unique_id.encode(), key=keys[0] if keys else b"", digest_size=8).digest()
