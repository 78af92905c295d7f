"""The next token of every request in a batch, each by its own parameters.

Knows nothing of text, slots or models. Called by the batching loop on the engine thread with the logits of one
step. A batch pays only for what its requests use: an all-greedy one is a single argmax.

A token's random number is a hash of the request's seed and the token's index, so a seeded request draws the same
numbers whatever runs beside it, and a step that is repeated draws them again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from llmapi_kit.sampling.masks import NO_MASKS, Masks
from llmapi_kit.sampling.parameters import SamplingParams

# What is smaller is 0 in the logits' own precision, and 0 times the -inf of a forbidden token is not a number.
LEAST_PENALTY = 1e-30


class Sampled(NamedTuple):
    """One chosen token.

    Attributes:
        token_id: the choice.
        logprob: natural logarithm of its probability before temperature and penalties; None unless asked for.
        top: (token id, logprob) of the most likely tokens, best first.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, eq=False)
class SamplerRow:
    """What the sampler remembers of one request: its seed and the tokens already seen.

    Args:
        params: the request's parameters.
        prompt_ids: the prompt, which repetition_penalty counts as seen.
        index: which of several answers it makes; each draws other numbers from the same seed.
        ending_ids: tokens that are not chosen before `SamplingParams.min_tokens`.

    Attributes:
        adjusts: whether anything but a mask changes the logits.
        is_plain_greedy: whether the argmax of the raw logits is the answer, and nothing else is asked for.
    """

    params: SamplingParams
    prompt_ids: Sequence[int]
    index: int = 0
    ending_ids: frozenset[int] = frozenset()
    num_drawn: int = 0
    adjusts: bool = field(init=False)
    is_plain_greedy: bool = field(init=False)
    _seed: bytes = b""  # set when a number is drawn for the first time
    _seen: torch.Tensor | None = None  # (vocab,) bool: in prompt or answer
    _counts: torch.Tensor | None = None  # (vocab,) how often in the answer
    _bias: tuple[torch.Tensor, torch.Tensor] | None = None  # ids, values

    def __post_init__(self) -> None:
        params = self.params
        self.adjusts = params.has_penalties or bool(params.logit_bias) or params.min_tokens > 0
        self.is_plain_greedy = params.is_greedy and not self.adjusts and params.logprobs is None

    def uniform(self) -> float:
        """The random number in [0, 1) of the token about to be chosen."""
        self._ensure_seed()
        counter = self.num_drawn.to_bytes(8, "little") + self.index.to_bytes(4, "little")
        digest = hashlib.blake2b(self._seed + counter, digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> 11) / 2**53

    def ahead(self) -> SamplerRow:
        """A copy that draws the same random numbers, to guess what this row will choose; scores of tokens apart."""
        if not self.params.is_greedy:
            self._ensure_seed()
        params = self.params if self.params.logprobs is None else replace(self.params, logprobs=None)
        row = SamplerRow(params, self.prompt_ids, self.index, self.ending_ids, self.num_drawn)
        row._seed, row._bias = self._seed, self._bias
        if self._seen is not None and self._counts is not None:
            row._seen, row._counts = self._seen.clone(), self._counts.clone()
        return row

    def adjust(self, logits: torch.Tensor) -> None:
        """Apply bias, penalties and min_tokens to `logits` (vocab,) in place."""
        params = self.params
        if params.has_penalties:
            seen, counts = self._tables(logits)
            if params.repetition_penalty != 1:
                penalty = max(params.repetition_penalty, LEAST_PENALTY)
                penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
                logits.copy_(torch.where(seen, penalised, logits))
            if params.frequency_penalty:
                logits.sub_(counts, alpha=params.frequency_penalty)
            if params.presence_penalty:
                logits.sub_((counts > 0).to(logits.dtype), alpha=params.presence_penalty)
        if params.logit_bias:
            if self._bias is None:
                ids = torch.tensor(list(params.logit_bias), device=logits.device)
                values = torch.tensor(list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device)
                self._bias = ids, values
            logits.index_add_(0, *self._bias)
        if self.num_drawn < params.min_tokens:
            logits[torch.tensor(sorted(self.ending_ids), device=logits.device, dtype=torch.long)] = -torch.inf

    def add(self, token_id: int) -> None:
        """Count a token that was chosen."""
        self.num_drawn += 1
        if self._counts is not None and self._seen is not None:
            self._counts[token_id] += 1
            self._seen[token_id] = True

    def _ensure_seed(self) -> None:
        if not self._seed:
            seed = self.params.seed
            self._seed = secrets.token_bytes(16) if seed is None else seed.to_bytes(16, "little", signed=True)

    def _tables(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._seen is None or self._counts is None:
            self._seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            width = len(logits)
            seen = [token_id for token_id in self.prompt_ids if token_id < width]  # others are of pictures
            self._seen[torch.tensor(seen, device=logits.device, dtype=torch.long)] = True
            self._counts = torch.zeros_like(logits)
        return self._seen, self._counts


def sample(logits: torch.Tensor, rows: Sequence[SamplerRow], masks: Masks = NO_MASKS) -> list[Sampled]:
    """Choose a token for each row.

    Args:
        logits: (len(rows), vocab), any float type; not changed.
        rows: one a line of `logits`.
        masks: tokens that some of them may not take; what is left of a row without a mask for an error means nothing.

    Returns:
        One `Sampled` a row, in order. The rows have counted their tokens.
    """
    if not masks.rows and all(row.is_plain_greedy for row in rows):
        return [Sampled(token_id) for token_id in _argmax(logits)]
    raw = logits.float()
    scores = raw.clone()
    masks.apply(scores)
    for i, row in enumerate(rows):
        if row.adjusts:
            row.adjust(scores[i])
    token_ids = scores.argmax(-1)
    for width, group in _groups(rows, raw.shape[1]).items():
        token_ids[group] = _draw(scores[group], [rows[i] for i in group], width)
    chosen = token_ids.tolist()
    sampled = _with_logprobs(raw, rows, chosen)
    for row, token_id in zip(rows, chosen, strict=True):  # last, so that a failed call has changed nothing
        row.add(token_id)
    return sampled


def _argmax(logits: torch.Tensor) -> list[int]:
    """Index of the largest value of each row. On a CPU NumPy finds it ten times faster."""
    is_plain = logits.device.type == "cpu" and logits.dtype == torch.float32
    ids: list[int] = (logits.numpy() if is_plain else logits).argmax(-1).tolist()
    return ids


def _groups(rows: Sequence[SamplerRow], vocab: int) -> dict[int, list[int]]:
    """Indices of the rows that draw, by how many of the likeliest tokens have to be sorted; 0 for none.

    A row's path depends on its own parameters only, so that its neighbours can't change what it draws.
    """
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        params = row.params
        if not params.is_greedy:
            is_cut = params.top_k or params.top_p < 1 or params.min_p or params.typical_p < 1
            width = (min(params.top_k, vocab) or vocab) if is_cut else 0
            groups.setdefault(width, []).append(i)
    return groups


def _draw(scores: torch.Tensor, rows: Sequence[SamplerRow], width: int) -> torch.Tensor:
    """Token ids (n,) drawn from `scores` (n, vocab) by each row's temperature, top_p, min_p and typical_p.

    Inverse transform sampling: one uniform number a row decides. `width` is the rows' top_k, the vocabulary where
    they have none, or 0 where nothing is cut off and nothing needs sorting.
    """
    device, vocab = scores.device, scores.shape[1]
    params = [row.params for row in rows]
    uniform = torch.tensor([[row.uniform()] for row in rows], dtype=torch.float64, device=device)
    temperature = torch.tensor([[p.temperature] for p in params], dtype=torch.float32, device=device)
    scores = scores / temperature.clamp_min(1e-4)  # below it, float32 would overflow; it is greedy by then
    ids = None
    if width:
        scores, ids = scores.topk(width, dim=-1) if width < vocab else scores.sort(dim=-1, descending=True)
        probs = scores.softmax(-1)  # (n, width), most likely first
        top_p = torch.tensor([[p.top_p] for p in params], dtype=torch.float32, device=device)
        min_p = torch.tensor([[p.min_p] for p in params], dtype=torch.float32, device=device)
        # A token stays while those before it do not yet make up top_p, so the most likely one always stays.
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill((before >= top_p) & (top_p < 1) | (probs < min_p * probs[:, :1]), 0)
        if any(p.typical_p < 1 for p in params):
            probs = _keep_typical(probs, [p.typical_p for p in params])
    else:
        probs = scores.softmax(-1)
    cumulative = probs.double().cumsum(-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    # A uniform number next to 1 may round past the last token that has any probability.
    last = probs.shape[1] - 1 - (probs > 0).flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
    index = torch.minimum(index, last)
    return (index if ids is None else ids.gather(1, index))[:, 0]


def _keep_typical(probs: torch.Tensor, masses: Sequence[float]) -> torch.Tensor:
    """`probs` (n, width), not necessarily normalised, with 0 for each row's tokens outside of its typical set."""
    mass = torch.tensor(masses, dtype=torch.float32, device=probs.device)[:, None]
    share = probs / probs.sum(-1, keepdim=True)
    information = -share.clamp_min(torch.finfo(share.dtype).tiny).log()
    entropy = (share * information).sum(-1, keepdim=True)
    distance = (information - entropy).abs().masked_fill(share == 0, torch.inf)
    order = distance.argsort(dim=-1, stable=True)
    sorted_share = share.gather(1, order)
    before = sorted_share.cumsum(-1) - sorted_share  # as for top_p: the first one always stays
    is_dropped = torch.zeros_like(probs, dtype=torch.bool).scatter(1, order, (before >= mass) & (mass < 1))
    return probs.masked_fill(is_dropped, 0)


def _with_logprobs(raw: torch.Tensor, rows: Sequence[SamplerRow], chosen: list[int]) -> list[Sampled]:
    sampled = [Sampled(token_id) for token_id in chosen]
    for i, row in enumerate(rows):
        num_top = row.params.logprobs
        if num_top is None:
            continue
        logprobs = raw[i].log_softmax(-1)
        values, ids = logprobs.topk(num_top)
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        sampled[i] = Sampled(chosen[i], float(logprobs[chosen[i]]), top)
    return sampled
