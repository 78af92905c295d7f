"""Computes which tokens the constrained answers of a step may take, beside the forward pass, and applies it.

Knows nothing of requests or of sampling. The batching loop starts a job before the forward pass and waits for it
after; the work is llguidance's, on threads of its own, without the GIL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from llmapi_kit.errors import GenerationError
from llmapi_kit.sampling.matcher import Matcher, Words

if TYPE_CHECKING:
    from llguidance import LLExecutor


@dataclass(frozen=True, slots=True)
class Masks:
    """What a step's constrained rows may not take.

    Attributes:
        rows: of the logits, those that are masked.
        blocked: (len(rows), tokens) bool on the CPU, True for each token that is not allowed.
        errors: row to what went wrong; that request is to fail, and its row is left as it is.
    """

    rows: Sequence[int]
    blocked: torch.Tensor
    errors: Mapping[int, GenerationError]

    def apply(self, logits: torch.Tensor) -> None:
        """Set the logits (rows, vocab) of all tokens that are not allowed to -inf, in place."""
        if not self.rows:
            return
        num_tokens = self.blocked.shape[1]
        blocked = self.blocked.to(logits.device, non_blocking=True)
        if len(self.rows) == len(logits):
            logits[:, num_tokens:] = -torch.inf
            logits[:, :num_tokens].masked_fill_(blocked, -torch.inf)
        else:
            rows = torch.tensor(self.rows, device=logits.device)
            masked = logits[rows]
            masked[:, num_tokens:] = -torch.inf
            masked[:, :num_tokens].masked_fill_(blocked, -torch.inf)
            logits[rows] = masked


NO_MASKS = Masks((), torch.empty(0, 0, dtype=torch.bool), {})


class MaskJob:
    """The masks of one step, on their way."""

    def __init__(self, computing: Future[Masks] | None) -> None:
        self._computing = computing

    def wait(self) -> Masks:
        """Block until they are there; also needed where the forward pass failed, before matchers are used again."""
        return NO_MASKS if self._computing is None else self._computing.result()


class MaskWorker:
    """Starts jobs. One per batching loop; costs nothing until there is something to compute."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._executor: LLExecutor | None = None

    def start(self, matchers: Sequence[Matcher | None]) -> MaskJob:
        """Begin with the masks of a step.

        Args:
            matchers: one for each row of the logits to come, None where everything is allowed. All of one model,
                no two the same, and none of them touched before the job's `wait` returned.
        """
        constrained = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
        if not constrained:
            return MaskJob(None)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "llmapi_kit masks")
        return MaskJob(self._thread.submit(self._compute, constrained))

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _compute(self, constrained: Sequence[tuple[int, Matcher]]) -> Masks:
        grammar = constrained[0][1].grammar
        words: Words = np.zeros((len(constrained), grammar.num_words), dtype=np.int32)
        self._fill(words, [matcher for _, matcher in constrained])
        errors: dict[int, GenerationError] = {}
        kept = []
        for i, (row, matcher) in enumerate(constrained):
            error = matcher.check(words[i])
            if error is None:
                kept.append(i)
            else:
                errors[row] = error
        bits = np.unpackbits((~words[kept]).view(np.uint8), axis=1, bitorder="little")
        blocked = torch.from_numpy(bits.view(np.bool_)[:, : grammar.num_tokens])
        return Masks([constrained[i][0] for i in kept], blocked, errors)

    def _fill(self, words: Words, matchers: Sequence[Matcher]) -> None:
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor()
        targets = [(matcher.inner, i) for i, matcher in enumerate(matchers)]
        try:
            self._executor.unsafe_compute_mask_ptr(targets, words.ctypes.data, words.shape[1] * 4, len(words))
        except BaseException as exc:  # a panic of Rust's is not an Exception, and would end the engine's thread
            raise GenerationError(f"Computing what may come next failed: {exc}") from exc
