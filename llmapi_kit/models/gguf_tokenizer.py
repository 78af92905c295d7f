"""The tokenizer that a GGUF file describes, as one of transformers.

A file has the vocabulary and its merges, but of the rules that split text before them only a name; so only names whose
rules are known here are taken, and others are refused: wrong splits give a model text it was not trained on, and
nothing would show it. `tokenizer=` names one to use instead.

transformers' own conversion is not used: it adds a token past the end of a vocabulary without ``<|endoftext|>``, and
cuts control tokens in other scripts, such as DeepSeek's, into pieces.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from llmapi_kit.errors import ModelLoadError, UnsupportedModelError
from llmapi_kit.models.gguf_header import GgufHeader

LLAMA3, QWEN2, GPT2 = ("llama-bpe", "llama3", "llama-v3"), ("qwen2", "deepseek-r1-qwen"), ("gpt-2",)
CONTROL, USER_DEFINED = 3, 4
MAX_TOKEN_LENGTH = 1024
MAX_ADDED_TOKENS = 20_000
ROLES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def load_tokenizer(header: GgufHeader, num_embeddings: int) -> Any:
    """Build the tokenizer.

    Args:
        header: of the file.
        num_embeddings: rows of the embedding; there are no more tokens than that.

    Raises:
        UnsupportedModelError: it is of a kind, or splits text by rules, that are not known here.
        ModelLoadError: its tables do not go together.
    """
    name = header.path.name
    kind, rules = header.one("tokenizer.ggml.model"), header.one("tokenizer.ggml.pre")
    hint = "Pass tokenizer= with a folder or a hub name that has this model's tokenizer."
    if kind != "gpt2":
        raise UnsupportedModelError(
            f"{name} has a tokenizer of the kind {str(kind)[:80]!r}; 'gpt2' can be read. {hint}"
        )
    if rules not in (*LLAMA3, *QWEN2, *GPT2):
        raise UnsupportedModelError(
            f"{name} has a tokenizer that splits text by the rules {str(rules)[:80]!r}; "
            f"{', '.join((*LLAMA3, *QWEN2, *GPT2))} are known. {hint}"
        )
    tokens, kinds, merges = _tables(header, num_embeddings)
    backend = _backend(name, tokens, merges, rules)
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    if len(added) > MAX_ADDED_TOKENS:
        raise ModelLoadError(f"{name} has {len(added):,} added tokens; at most {MAX_ADDED_TOKENS:,} are read.")
    backend.add_special_tokens([token for token in added if token.special])
    backend.add_tokens([token for token in added if not token.special])
    roles = {role: _token(header, key, tokens) for role, key in ROLES.items()}
    _add_ends(backend, header, roles, tokens, adds_bos=rules in LLAMA3)
    template = header.one("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelLoadError(f"{name}: tokenizer.chat_template is no text.")
    given = {role: token for role, token in roles.items() if token is not None}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **given)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = template
    if len(tokenizer) != len(tokens):
        raise ModelLoadError(f"{name}: {len(tokens):,} tokens became {len(tokenizer):,}; its tables are damaged.")
    return tokenizer


def _tables(header: GgufHeader, num_embeddings: int) -> tuple[list[str], list[int], list[tuple[str, str]]]:
    """Tokens, the kind of each, and merges, checked."""
    name, metadata = header.path.name, header.metadata
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(merges, list):  # of texts; of numbers they are arrays
        raise ModelLoadError(f"{name} has no list of tokens and of merges.")
    if len(set(tokens)) != len(tokens) or not 0 < len(tokens) <= num_embeddings:
        raise ModelLoadError(f"{name} has tokens twice, or more than the {num_embeddings:,} rows of its embedding.")
    if max(map(len, tokens)) > MAX_TOKEN_LENGTH or not all(tokens):
        raise ModelLoadError(f"{name} has tokens that are empty or longer than {MAX_TOKEN_LENGTH:,} characters.")
    if kinds is None:
        kinds = np.ones(len(tokens), int)
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        raise ModelLoadError(f"{name}: tokenizer.ggml.token_type does not have an entry a token.")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    known = set(tokens)
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= known:
            raise ModelLoadError(f"{name}: the merge {' '.join(pair)[:80]!r} is not one of two of its tokens.")
    return tokens, kinds.tolist(), pairs


def _backend(name: str, tokens: list[str], merges: list[tuple[str, str]], rules: str) -> Any:
    try:
        vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
        # Llama 3 takes a word that is a token whole, whether or not merges lead to it
        backend: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rules in LLAMA3))
    except Exception as exc:  # the errors of its Rust core have no class of their own
        raise ModelLoadError(f"{name}: its tokens and merges do not go together: {exc}") from exc
    if rules in GPT2:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        # Llama 3 splits as Qwen2 does, but takes up to three digits together
        split = PRETOKENIZE_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|") if rules in LLAMA3 else PRETOKENIZE_REGEX
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if rules == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _token(header: GgufHeader, key: str, tokens: list[str]) -> str | None:
    """The token of a role, such as the one that begins a text."""
    token_id = header.one(f"tokenizer.ggml.{key}_token_id")
    if token_id is None:
        return None
    if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
        raise ModelLoadError(f"{header.path.name}: tokenizer.ggml.{key}_token_id is {token_id}, which is no token.")
    return tokens[token_id]


def _add_ends(
    backend: Any, header: GgufHeader, roles: dict[str, str | None], tokens: list[str], *, adds_bos: bool
) -> None:
    """Let the tokenizer put tokens before and after a plain text, where the model was trained with them."""
    before, after = "", ""
    if header.one("tokenizer.ggml.add_bos_token", adds_bos) and roles["bos_token"] is not None:
        before = roles["bos_token"]
    if header.one("tokenizer.ggml.add_eos_token", False) and roles["eos_token"] is not None:
        after = roles["eos_token"]
    special = {token: tokens.index(token) for token in (before, after) if token}
    if special:
        parts = [part for part in (before, "$A", after) if part]
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=parts, pair=[*parts, "$B:1"], special_tokens=list(special.items())
                ),
            ]
        )
