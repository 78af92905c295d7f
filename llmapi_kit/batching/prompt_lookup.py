"""What an answer may go on with, guessed: what followed the same tokens earlier, in its prompt or in itself.

Guesses are checked by the model, several in one step, and cost something where they are wrong; so a request makes more
of them while they come true, and none for a while where they don't. Knows no models. Engine thread only.

Source: Saxena 2023, "Prompt Lookup Decoding", https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

NUM_SAME = 3  # tokens that have to be the same before a guess
FIRST_GUESSED = 3
PAUSE = 24  # tokens without a guess after those that did not come true


class PromptLookup:
    """The guesses of one answer; see `llmapi_kit.batching.proposer.Proposer`.

    Args:
        prompt_ids: the prompt.
        most: tokens guessed at once.
    """

    def __init__(self, prompt_ids: Sequence[int], most: int = 8) -> None:
        self._most = most
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # some tokens to where their latest continuation begins
        self._num_guessed = min(most, FIRST_GUESSED)
        self._pause = 0
        self.extend(prompt_ids)

    def extend(self, ids: Sequence[int]) -> None:
        """The text goes on with these."""
        for token_id in ids:
            if len(self._ids) >= NUM_SAME:
                self._after[tuple(self._ids[-NUM_SAME:])] = len(self._ids)
            self._ids.append(token_id)
        self._pause -= len(ids)

    def guess(self, limit: int) -> list[int]:
        """What may come next, `limit` tokens at most; often nothing."""
        num = min(limit, self._num_guessed)
        if num <= 0 or self._pause > 0:
            return []
        begin = self._after.get(tuple(self._ids[-NUM_SAME:]))
        return [] if begin is None else self._ids[begin : begin + num]

    def learn(self, num_guessed: int, num_right: int) -> None:
        """How many tokens of the last guess came true; guess more next time, or less."""
        if num_right == num_guessed:
            self._num_guessed = min(self._most, self._num_guessed + 2)
        elif num_right == 0:
            self._num_guessed, self._pause = min(self._most, FIRST_GUESSED), PAUSE
        else:
            self._num_guessed = max(1, num_right)
