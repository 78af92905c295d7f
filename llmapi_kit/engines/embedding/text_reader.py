"""From texts to token ids: prompts before them, limits checked, and what is over cut off where that was asked for.

Knows nothing of queues or models. Blocking; several threads may call it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from llmapi_kit.engines.base import Truncation
from llmapi_kit.errors import ContextLengthError, InvalidRequestError
from llmapi_kit.runners.encoder import EncoderInput

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Text = str | Sequence[int]
HOW_TO_CUT = 'Shorten it, or send truncate_prompt_tokens=-1 or truncate="END" to have it cut.'


class TextReader:
    """Reads the inputs of one model.

    Args:
        tokenizer: which cuts nothing off; owned from now on.
        max_length: tokens that an input may have; 0 for no limit.
        prompts: texts to put before an input, by name.
        default_prompt: the name of the one that is taken where none is named; empty for none.
        pools_prompt: whether a prompt's tokens are pooled.
        adds_special: whether inputs get the tokenizer's special tokens.
        render_pair: makes one text of a prompt and a pair; None where pairs are read one after the other.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        *,
        prompts: Mapping[str, str],
        default_prompt: str = "",
        pools_prompt: bool = True,
        adds_special: bool = True,
        render_pair: Callable[[str, str, str], str] | None = None,
    ) -> None:
        self.prompts = dict(prompts)
        self._tokenizer = tokenizer
        self._cutting = type(tokenizer).from_str(tokenizer.to_str())
        self._cutting_lock = threading.Lock()  # how much it cuts off is set for each call
        self._max_length = max_length
        self._default_prompt = default_prompt
        self._pools_prompt = pools_prompt
        self._adds_special = adds_special
        self._vocab_size = tokenizer.get_vocab_size()
        self._render_pair = render_pair

    def read(
        self, inputs: Sequence[Text], prompt_name: str | None, truncation: Truncation | None
    ) -> list[EncoderInput]:
        """Token ids of each input.

        Raises:
            InvalidRequestError: one is empty or has ids beyond the vocabulary, or there is no such prompt.
            ContextLengthError: one is too long, and nothing says to cut it.
        """
        prompt = self._prompt(prompt_name)
        limit = self._limit(truncation)
        texts = [prompt + each for each in inputs if isinstance(each, str)]
        of_texts = iter(self._encode(texts, truncation, limit))
        num_unpooled = self._num_prompt_tokens(prompt) if prompt and not self._pools_prompt else 0
        read = []
        for index, each in enumerate(inputs):
            ids = list(next(of_texts).ids) if isinstance(each, str) else self._checked(each, index)
            if not isinstance(each, str) and truncation is not None and 0 < limit < len(ids):
                ids = ids[-limit:] if truncation.side == "start" else ids[:limit]
            if not ids and self._adds_special:  # a table of word vectors has zeros for it
                raise _empty(f"input.{index}")
            self._check_length(ids, limit, f"input.{index}")
            read.append(EncoderInput(ids, num_unpooled if isinstance(each, str) else 0))
        return read

    def read_pairs(
        self, pairs: Sequence[tuple[str, str]], truncation: Truncation | None, param: str
    ) -> list[EncoderInput]:
        """Token ids of pairs of texts, one after the other.

        Raises:
            ContextLengthError: one is too long, and nothing says to cut it; it names the pair by `param` and number.
        """
        limit = self._limit(truncation)
        if self._render_pair is not None:
            return self._read_rendered(self._render_pair, pairs, truncation, limit, param)
        read = []
        for index, each in enumerate(self._encode(pairs, truncation, limit)):
            self._check_length(each.ids, limit, f"{param}.{index}")
            read.append(EncoderInput(each.ids, type_ids=each.type_ids))
        return read

    def _read_rendered(
        self,
        render: Callable[[str, str, str], str],
        pairs: Sequence[tuple[str, str]],
        truncation: Truncation | None,
        limit: int,
        param: str,
    ) -> list[EncoderInput]:
        """Pairs through a chat template; what it puts after the texts is kept where they are cut."""
        prompt = self._prompt(None)
        read = []
        for index, pair in enumerate(pairs):
            ids = self.encode(render(prompt, *pair), add_special_tokens=False)
            if truncation is not None and 0 < limit < len(ids):
                tail = self._tail(render, prompt)[-limit:]
                ids = ids[-limit:] if truncation.side == "start" else [*ids[: limit - len(tail)], *tail]
            self._check_length(ids, limit, f"{param}.{index}")
            read.append(EncoderInput(ids))
        return read

    def _tail(self, render: Callable[[str, str, str], str], prompt: str) -> list[int]:
        """The tokens that a chat template puts after every pair."""
        one, other = (
            self.encode(render(prompt, text, text), add_special_tokens=False)[::-1] for text in ("0", "1 2 3 4")
        )
        length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        return one[:length][::-1]

    def shorten(self, text: str, num_tokens: int) -> str:
        """A text's beginning, of at most so many tokens."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text if len(offsets) <= num_tokens else text[: offsets[num_tokens - 1][1]]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included.

        Raises:
            InvalidRequestError: an id is not in the vocabulary.
        """
        self._check_ids(token_ids, "tokens")
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _encode(
        self, texts: Sequence[str | tuple[str, str]], truncation: Truncation | None, limit: int
    ) -> list[Encoding]:
        if truncation is None or limit == 0 or not texts:
            return list(self._tokenizer.encode_batch(texts, add_special_tokens=self._adds_special))
        with self._cutting_lock:
            direction = "left" if truncation.side == "start" else "right"
            self._cutting.enable_truncation(limit, strategy="longest_first", direction=direction)
            encoded = list(self._cutting.encode_batch(texts, add_special_tokens=self._adds_special))
        if any(len(each.ids) > limit for each in encoded):  # then the library leaves a text as it is
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {limit}, which leaves no room beside this model's special tokens.",
                param="truncate_prompt_tokens",
            )
        return encoded

    def _prompt(self, name: str | None) -> str:
        name = self._default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts))
            raise InvalidRequestError(
                f"prompt_name is {name[:80]!r}; this model has {known or 'no prompts: leave it out'}.",
                param="prompt_name",
            )
        return self.prompts[name]

    def _limit(self, truncation: Truncation | None) -> int:
        """Tokens that an input may have; 0 for no limit."""
        if truncation is None or truncation.num_tokens is None:
            return self._max_length
        if 0 < self._max_length < truncation.num_tokens:
            raise InvalidRequestError(
                f"truncate_prompt_tokens is {truncation.num_tokens}; this model reads {self._max_length} tokens at "
                "most, for which -1 stands.",
                param="truncate_prompt_tokens",
            )
        return truncation.num_tokens

    def _num_prompt_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, with the special ones before it."""
        whole = self.encode(prompt, add_special_tokens=self._adds_special)
        plain = self.encode(prompt, add_special_tokens=False)
        begin = next((i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain), 0)
        return begin + len(plain)

    def _checked(self, ids: Sequence[int], index: int) -> list[int]:
        param = f"input.{index}"
        if not ids:
            raise _empty(param)
        self._check_ids(ids, param)
        return list(ids)

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        wrong = next((each for each in ids if not 0 <= each < self._vocab_size), None)
        if wrong is not None:
            raise InvalidRequestError(
                f"{param} has token id {wrong}; this model's ids are 0 to {self._vocab_size - 1}.", param=param
            )

    def _check_length(self, ids: Sequence[int], limit: int, param: str) -> None:
        if 0 < limit < len(ids):
            raise ContextLengthError(
                f"This model reads {limit} tokens at most; {param} has {len(ids)}. {HOW_TO_CUT}", param=param
            )


def _empty(param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param} is empty; it must have at least one token.", param=param)
