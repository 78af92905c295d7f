"""Compiles constraints for one model and keeps what it compiled; no input can stall or crash the server.

A grammar is first tried in a process of its own (`grammar_trial`), which says within about two seconds whether it is
fit; only then is it compiled here, on a thread of its own with a large stack, one at a time. Knows nothing of HTTP,
requests or logits. `submit` and `compile` may be called from any thread.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmapi_kit.errors import InvalidRequestError, MissingDependencyError, QueueFullError, UnsupportedFieldError
from llmapi_kit.runners.large_stack import start_with_large_stack
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.grammar_source import grammar_text, reason_in
from llmapi_kit.sampling.grammar_trial import GrammarTrial
from llmapi_kit.sampling.matcher import Grammar, Matcher

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# In llguidance's units. What reaches them: 100,000 symbols take about 1 s to compile; a first mask up to 0.2 s, any
# later one up to about 40 ms; a lexer state is 0.5 to 1 kB.
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 300_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 30_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
MAX_CACHED = 64
MAX_CACHED_BYTES = 4 << 20
MAX_PENDING = 4

_Key = tuple[str, str]

__all__ = ["GrammarCompiler", "Matcher"]


class HasBackend(Protocol):
    """A fast tokenizer of transformers, or a `ModelTokenizer`."""

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` in it."""
        ...


@runtime_checkable
class HasGrammarVocabulary(Protocol):
    """A tokenizer that tells llguidance its vocabulary itself.

    Attributes:
        added_tokens: those that grammars may name: text to id.
        vocab_size: ids that there are.
    """

    vocab_size: int

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """See the class."""
        ...

    def grammar_vocabulary(self, eos_ids: Sequence[int]) -> LLTokenizer:
        """The vocabulary.

        Raises:
            UnsupportedFieldError: it has no token that ends an answer.
        """
        ...


class GrammarCompiler:
    """Makes matchers. One per loaded model.

    Args:
        tokenizer: the model's.
        vocab_size: width of the model's logits; ids past the tokenizer's own are never allowed.
        eos_ids: all tokens that end an answer.
        max_cached: grammars that are kept, ...
        max_cached_bytes: ... and how long their sources may be together.
        max_pending: grammars that may wait to be compiled; one more is refused.
    """

    def __init__(
        self,
        tokenizer: HasBackend | HasGrammarVocabulary,
        vocab_size: int,
        eos_ids: Iterable[int],
        *,
        max_cached: int = MAX_CACHED,
        max_cached_bytes: int = MAX_CACHED_BYTES,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(eos_ids)
        self._max_cached = max_cached
        self._max_cached_bytes = max_cached_bytes
        self._max_pending = max_pending
        self._lock = threading.Lock()  # of the two below
        self._cache: OrderedDict[_Key, Grammar] = OrderedDict()
        self._pending: dict[_Key, Future[Grammar]] = {}
        self._turn = threading.Lock()  # of who compiles
        self._prepared: tuple[LLTokenizer, GrammarTrial] | None = None
        self._is_closed = False

    def compile(self, constraint: Constraint) -> Matcher:
        """A matcher for one answer; blocks, for about two seconds at most if nothing else is being compiled.

        Raises:
            InvalidRequestError: the constraint is wrong, unsupported, can't be matched, or is too complex.
            QueueFullError: too many others are being compiled.
            EngineUnavailableError: this was closed.
        """
        return self.submit(constraint).result()

    def submit(self, constraint: Constraint) -> Future[Matcher]:
        """The same without blocking: a future that gives the matcher, or raises what `compile` does."""
        wanted: Future[Matcher] = Future()
        wanted.set_running_or_notify_cancel()
        key = constraint.kind, constraint.source
        with self._lock:
            grammar = self._cached(key)
            compiling = self._pending.get(key)
            if grammar is None and compiling is None:
                if len(self._pending) >= self._max_pending:
                    wanted.set_exception(_busy(len(self._pending), constraint.param))
                    return wanted
                compiling = Future()
                start_with_large_stack(self._compile_in_turn, key, constraint, compiling, name="llmapi_kit grammar")
                self._pending[key] = compiling  # the thread takes it away, for which it needs the lock
        if grammar is not None:
            wanted.set_result(grammar.matcher())
        elif compiling is not None:
            compiling.add_done_callback(lambda done: _hand_over(done, wanted, constraint.param))
        return wanted

    def prepare(self) -> None:
        """Read the vocabulary: 0.7 s and 120 MB for 128,000 tokens, holding the GIL. Else the first `compile` does.

        Raises:
            MissingDependencyError: llguidance is not installed.
            UnsupportedFieldError: the tokenizer is of a kind whose tokens have no bytes of their own.
        """
        with self._turn:
            self._prepare()

    def close(self) -> None:
        """End the process in which grammars are tried; matchers already made go on. Safe to call twice."""
        self._is_closed = True
        if self._prepared is not None:
            self._prepared[1].close()

    # On a thread of its own

    def _compile_in_turn(self, key: _Key, constraint: Constraint, compiling: Future[Grammar]) -> None:
        try:
            with self._turn:
                grammar = self._compile(constraint)
        except BaseException as exc:
            with self._lock:
                self._pending.pop(key)
            compiling.set_exception(exc)
        else:
            with self._lock:
                self._pending.pop(key)
                self._keep(key, grammar)
            compiling.set_result(grammar)

    def _compile(self, constraint: Constraint) -> Grammar:
        text = grammar_text(constraint)
        tokenizer, trial = self._prepare()
        fault = trial.fault_in(text)
        if fault is None:
            grammar = Grammar(tokenizer, text, LIMITS, self._vocab_size)
            fault = grammar.fault()
            if fault is None:
                return grammar
        raise InvalidRequestError(f"{constraint.param}: {reason_in(fault, constraint)}", param=constraint.param)

    def _prepare(self) -> tuple[LLTokenizer, GrammarTrial]:
        if self._prepared is None:
            tokenizer = _read_vocabulary(self._tokenizer, self._eos_ids)
            specials = _specials(self._tokenizer)
            self._prepared = tokenizer, GrammarTrial(tokenizer.vocab_size, specials, tokenizer.eos_tokens, LIMITS)
            if self._is_closed:
                self._prepared[1].close()
        return self._prepared

    # With the lock held

    def _cached(self, key: _Key) -> Grammar | None:
        grammar = self._cache.get(key)
        if grammar is None:
            return None
        if grammar.is_worn:
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return grammar

    def _keep(self, key: _Key, grammar: Grammar) -> None:
        self._cache[key] = grammar
        size = sum(len(source) for _, source in self._cache)
        while len(self._cache) > self._max_cached or size > self._max_cached_bytes:
            (_, source), _ = self._cache.popitem(last=False)
            size -= len(source)


def _specials(tokenizer: HasBackend | HasGrammarVocabulary) -> list[tuple[int, str]]:
    """Id and text of each token that grammars may name."""
    if isinstance(tokenizer, HasGrammarVocabulary):
        return [(token_id, text) for text, token_id in tokenizer.added_tokens.items()]
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return [(int(token_id), token.content) for token_id, token in added.items()]


def _read_vocabulary(tokenizer: HasBackend | HasGrammarVocabulary, eos_ids: list[int]) -> LLTokenizer:
    """The vocabulary as llguidance wants it."""
    try:
        from llguidance import LLTokenizer
    except ImportError as exc:
        raise MissingDependencyError("llguidance", "torch", "Structured output") from exc
    if isinstance(tokenizer, HasGrammarVocabulary):
        return tokenizer.grammar_vocabulary([token_id for token_id in eos_ids if token_id < tokenizer.vocab_size])
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedFieldError("Structured output needs a fast tokenizer (tokenizer.json); this model has none.")
    eos_ids = [token_id for token_id in eos_ids if token_id < backend.get_vocab_size()]
    if not eos_ids:
        raise UnsupportedFieldError("Structured output needs to know which token ends an answer; this model has none.")
    kind = type(backend.decoder).__name__
    try:
        return LLTokenizer(_description(backend), eos_token=eos_ids)
    except BaseException as exc:  # a panic of Rust's is not an Exception
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise UnsupportedFieldError(
            f"Structured output does not work with this model's tokenizer, whose decoder is {kind}. It has to be "
            "byte-level BPE, as in GPT-2, Llama 3 and Qwen, or SentencePiece, as in Llama 2 and Mistral."
        ) from exc


def _description(backend: Any) -> str:
    """What tokenizer.json says, in words that llguidance reads."""
    if type(backend.decoder).__name__ != "Metaspace" or backend.token_to_id("<0x0A>") is not None:
        return str(backend.to_str())
    description = json.loads(backend.to_str())
    space = {"type": "Replace", "pattern": {"String": backend.decoder.replacement}, "content": " "}
    description["decoder"] = {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps(description)


def _hand_over(done: Future[Grammar], wanted: Future[Matcher], param: str) -> None:
    error = done.exception()
    if error is None:
        wanted.set_result(done.result().matcher())
    elif isinstance(error, InvalidRequestError):  # whoever asked first may have named another field
        own = type(error)(error.message, param=param, code=error.code)
        own.__cause__ = error
        wanted.set_exception(own)
    elif isinstance(error, MissingDependencyError):
        wanted.set_exception(UnsupportedFieldError(f"{param} does not work here. {error}", param=param))
    else:
        wanted.set_exception(error)


def _busy(num_pending: int, param: str) -> QueueFullError:
    return QueueFullError(
        f"{num_pending} other grammars are being compiled (the limit). Try again in a moment.",
        param=param,
        retry_after_s=1,
    )
