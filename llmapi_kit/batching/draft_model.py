"""A draft model: a small model writes on ahead, and the large one checks several of its tokens in one step.

The draft draws each token by the request's own parameters and with the random number that the model will draw it with.
So where both find the same tokens likely they choose the same one, and answers are what they are without a draft, seed
for seed; rejection sampling would accept somewhat more, and make other answers of the same seed.

It has a slot for each slot of the model: prompts are computed there beside their prefill, answers when it writes on.
Knows nothing of text. Engine thread only.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
https://arxiv.org/abs/2211.17192.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmapi_kit.batching.draft_pace import DraftPace
from llmapi_kit.batching.page_pool import Change, Copy, Free, Trim
from llmapi_kit.batching.prefix_cache import common_prefix
from llmapi_kit.batching.request import Request
from llmapi_kit.runners.base import Logits, PagedRunner, Runner, StepItem
from llmapi_kit.sampling.sampler import SamplerRow, sample

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 24, 384  # tokens without a draft where it does not pay
FIRST_TRIED = 4.0  # drafted tokens that what a request begins with counts for
REMEMBERED = 0.85  # weight of earlier drafts in how many tokens come true
# Tokens of a slot in a step that still tells how long drafting takes
MAX_TIMED = 16


class DraftProposer:
    """What a draft model guesses of one answer; see `llmapi_kit.batching.proposer.Proposer`.

    Args:
        most: tokens guessed at once.
        pace: tells how many of them are worth drafting; what other requests learned is what this one begins with.
    """

    def __init__(self, most: int, pace: DraftPace) -> None:
        self._most = most
        self._pace = pace
        self._drafted: list[int] = []
        self._num_right, self._num_tried = FIRST_TRIED * pace.rate, FIRST_TRIED
        self._pause, self._next_pause = 0, FIRST_PAUSE
        self._is_trying_again = False

    def extend(self, ids: Sequence[int]) -> None:
        """See `Proposer.extend`."""
        self._pause -= len(ids)

    def guess(self, limit: int) -> list[int]:
        """See `Proposer.guess`: what was offered since the last call."""
        drafted, self._drafted = self._drafted[:limit], []
        return drafted

    def learn(self, num_guessed: int, num_right: int) -> None:
        """See `Proposer.learn`."""
        num_tried = min(num_guessed, num_right + 1)
        self._num_tried = REMEMBERED * self._num_tried + num_tried
        self._num_right = REMEMBERED * self._num_right + num_right
        self._pace.learn(num_tried, num_right)

    def num_wanted(self, num_streams: int) -> int:
        """How many tokens to draft now; 0 for a while where that does not pay, and then one to find out anew."""
        if self._pause > 0:
            return 0
        length = self._pace.best_length(self._num_right / self._num_tried, self._most, num_streams)
        if length:
            self._next_pause = FIRST_PAUSE
            return length
        if self._is_trying_again:
            self._is_trying_again = False
            return 1
        self._is_trying_again = True
        self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        return 0

    def offer(self, token_ids: list[int]) -> None:
        """The draft goes on with these tokens."""
        self._drafted = token_ids


@dataclass(slots=True)
class _Slot:
    """What the draft has computed in a slot.

    Attributes:
        tokens: those whose keys and values are there.
        num_agreed: how many of them are the owner's for sure; the others were drafted.
        owner: the request that it was computed for last.
    """

    tokens: list[int] = field(default_factory=list)
    num_agreed: int = 0
    owner: Request | None = None


class DraftModel:
    """Drives the draft's runner.

    Args:
        runner: with as many slots as the model's, which may go back to a prefix; closed with the loop.
        vocab_size: of the model, by which drafted tokens go.
        step_tokens: most tokens of prompts that it computes in a step.
        has_prefix_cache: whether slots keep what they computed.
        pace: tells how many tokens are worth drafting.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        vocab_size: int,
        step_tokens: int = 512,
        has_prefix_cache: bool = True,
        pace: DraftPace | None = None,
    ) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._step_tokens = step_tokens
        self._has_prefix_cache = has_prefix_cache
        self._pace = pace or DraftPace()
        self._slots = [_Slot() for _ in range(runner.num_slots)]

    def proposer(self, most: int) -> DraftProposer:
        """What guesses an answer, so many tokens at once at most; for any thread."""
        return DraftProposer(most, self._pace)

    def start(self) -> None:
        """See `Runner.start`."""
        self._runner.start()

    def close(self) -> None:
        """See `Runner.close`."""
        self._runner.close()

    def follow(self, change: Change) -> None:
        """Do to the draft's slots what was done to the model's."""
        match change:
            case Copy(source, target, length):
                self._copy_prefix(source, target, length)
            case Free(slot):
                self.free(slot)
            case Trim(slot, length):
                self._trim(slot, length)

    def _copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy as much of a prefix as the draft has."""
        tokens = self._slots[source].tokens[:length]
        if tokens:
            self._runner.copy_prefix(source, target, len(tokens))
        self._slots[target] = _Slot(tokens)

    def _trim(self, slot: int, length: int) -> None:
        """Give a slot's memory back from a position on."""
        if isinstance(self._runner, PagedRunner):
            self._runner.trim(slot, length)
        held = self._slots[slot]
        del held.tokens[length:]
        held.num_agreed = min(held.num_agreed, length)

    def free(self, slot: int) -> None:
        """The slot's request ended, or lost the slot."""
        self._runner.free(slot)
        self._slots[slot].owner = None
        if not self._has_prefix_cache:
            self._slots[slot] = _Slot()

    def checked(self, num_tokens: int, seconds: float) -> None:
        """A step of the model that computed no prompts took so long."""
        self._pace.checked(num_tokens, seconds)

    def write_on(self, running: Sequence[Request], most: Callable[[Request], int]) -> None:
        """Offer tokens to the requests that want some, and compute what prompts the model has computed.

        A draft that fails costs the requests their draft and nothing else.

        Args:
            running: requests with a slot.
            most: how many tokens may be guessed for one that decodes.
        """
        drafted = [each for each in running if isinstance(each.proposer, DraftProposer) and each.matcher is None]
        try:
            self._write_on(drafted, most)
        except Exception as exc:
            logger.warning("The draft model failed; %s requests go on without it", len(drafted), exc_info=exc)
            self._runner.recover(exc)
            self._slots = [_Slot() for _ in self._slots]  # what of the step was computed is not known
            for request in drafted:
                request.proposer = None

    def _write_on(self, requests: Sequence[Request], most: Callable[[Request], int]) -> None:
        num_streams = sum(map(_is_decoding, requests))
        items: list[StepItem] = []
        wanted: dict[Request, int] = {}
        budget = self._step_tokens
        for request in requests:
            is_decoding = _is_decoding(request)
            num = self._num_wanted(request, most(request), num_streams) if is_decoding else 0
            end = request.num_tokens if is_decoding else request.num_computed
            if not self._can_hold(request, end) or (is_decoding and not num):
                continue
            pending = self._pending(request, min(end, self._num_held(request) + budget))
            if pending is None:
                continue
            budget -= len(pending.tokens)
            if num and pending.start + len(pending.tokens) == end:
                wanted[request] = num
                pending = pending._replace(wants_logits=True)
            items.append(pending)
        if not items:
            return
        started = time.perf_counter()
        num_steps = self._draw(items, wanted)
        if all(item.wants_logits and len(item.tokens) <= MAX_TIMED for item in items):
            self._pace.drafted(num_steps, time.perf_counter() - started)

    def _num_wanted(self, request: Request, most: int, num_streams: int) -> int:
        """How many tokens to draft for a request that decodes."""
        proposer = request.proposer
        if not isinstance(proposer, DraftProposer):
            return 0
        room = self._runner.max_length - request.num_tokens + 1  # the last token drafted is not computed
        return max(0, min(proposer.num_wanted(num_streams), most, room))

    def _can_hold(self, request: Request, end: int) -> bool:
        """Whether a request is one that the draft can follow; else it goes on without."""
        limit = self._runner.vocab_size
        if self._slots[request.held_slot].owner is not request and max(request.prompt_ids) >= limit:
            request.proposer = None  # a token that has no row in the draft's embedding
        if request.output_ids and request.output_ids[-1] >= limit:
            request.proposer = None
        return request.proposer is not None and end > 0 and len(request.prompt_ids) < self._runner.max_length

    def _num_held(self, request: Request) -> int:
        """How many of a request's tokens are in its slot; what is there of others, or was drafted wrongly, is not."""
        slot = self._slots[request.held_slot]
        if slot.owner is not request:
            slot.owner = request
            slot.num_agreed = 0
            del slot.tokens[request.num_cached :]  # no more than the model took over: prompts of others are theirs
        first = slot.num_agreed
        slot.num_agreed += common_prefix(slot.tokens[first:], request.tokens(first, len(slot.tokens)))
        del slot.tokens[slot.num_agreed :]
        return slot.num_agreed

    def _pending(self, request: Request, end: int) -> StepItem | None:
        """What is missing of a request's tokens up to `end`; the slot has it from now on."""
        slot = self._slots[request.held_slot]
        start = slot.num_agreed
        if end <= start:
            return None
        tokens = request.tokens(start, end)
        slot.tokens.extend(tokens)
        slot.num_agreed = end
        return StepItem(request.held_slot, start, tokens, wants_logits=False)

    def _draw(self, items: Sequence[StepItem], wanted: dict[Request, int]) -> int:
        """Compute, and draw so many tokens for each of some requests; how many steps that took."""
        logits = self._runner.step(items)
        going = [(request, request.row.ahead()) for request in wanted]
        drafted: dict[Request, list[int]] = {request: [] for request in wanted}
        num_steps = 1
        while going:
            drawn = sample(self._of_width(logits), [row for _, row in going])
            left: list[tuple[Request, SamplerRow]] = []
            following: list[StepItem] = []
            for (request, row), (token_id, *_) in zip(going, drawn, strict=True):
                drafted[request].append(token_id)
                is_known = token_id not in row.ending_ids and token_id < self._runner.vocab_size
                if is_known and len(drafted[request]) < wanted[request]:
                    held = self._slots[request.held_slot].tokens
                    following.append(StepItem(request.held_slot, len(held), [token_id], wants_logits=True))
                    held.append(token_id)
                    left.append((request, row))
            going = left
            if going:
                logits = self._runner.step(following)
                num_steps += 1
        for request, token_ids in drafted.items():
            if isinstance(request.proposer, DraftProposer):
                request.proposer.offer(token_ids)
        return num_steps

    def _of_width(self, logits: Logits) -> Logits:
        """Logits (n, vocab of the draft) as (n, vocab of the model): embeddings of one family differ in spare rows."""
        missing = self._vocab_size - logits.shape[1]
        if missing <= 0:
            return logits[:, : self._vocab_size]
        padded = logits.new_full((len(logits), self._vocab_size), float("-inf"))
        padded[:, : logits.shape[1]] = logits
        return padded


def _is_decoding(request: Request) -> bool:
    """Whether all but the latest token of a request is computed."""
    return bool(request.output_ids) and request.num_computed >= request.num_tokens - 1
