"""Are the tables of a GGUF file's vocabulary such that llama.cpp can live with them.

It takes them as they come: with a token twice, or one of another length, it ends the process, and without a token for
some byte it does so at the first text that has it. Knows nothing of how texts are split.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmapi_kit.checkpoints.gguf_header import GgufHeader
from llmapi_kit.errors import ModelLoadError, UnsupportedModelError

MAX_TOKEN_BYTES = 4096
SENTENCEPIECE = "llama"
# Bytes that no text in UTF-8 has
NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
ROLES = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre", "fim_suf", "fim_mid")


def check_vocabulary(header: GgufHeader) -> None:
    """Raise unless the vocabulary's tables go together.

    Raises:
        ModelLoadError: they do not.
        UnsupportedModelError: there is none, or there are texts that it has no tokens for.
    """
    name, metadata = header.path.name, header.metadata
    kind = header.one("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind in ("none", "no_vocab"):
        raise UnsupportedModelError(f"{name} has no tokenizer, so it reads and writes no texts.")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelLoadError(f"{name} has no list of tokens.")
    # The library reads a token up to its first zero byte
    known = {token.partition("\0")[0] for token in tokens}
    if len(known) != len(tokens):
        raise ModelLoadError(f"{name} has {len(tokens):,} tokens, and only {len(known):,} of them are different.")
    if max(len(token.encode()) for token in tokens) > MAX_TOKEN_BYTES:
        raise ModelLoadError(f"{name} has a token of more than {MAX_TOKEN_BYTES:,} bytes.")
    for table, kinds in (("token_type", "iu"), ("scores", "f")):
        _check_table(header, table, kinds, len(tokens))
    for role in ROLES:
        token_id = header.one(f"tokenizer.ggml.{role}_token_id")
        if token_id is not None and not (isinstance(token_id, int) and -1 <= token_id < 2**32):
            raise ModelLoadError(f"{name}: tokenizer.ggml.{role}_token_id is {str(token_id)[:80]}: not a token.")
    missing = [value for value in range(256) if value not in NEVER and f"<0x{value:02X}>" not in known]
    if kind == SENTENCEPIECE and any(chr(value) not in known or value >= 0x80 for value in missing):
        raise UnsupportedModelError(
            f"{name} has no token for the byte {missing[0]:#04x} and {len(missing) - 1} others, so it can't read every "
            "text."
        )


def _check_table(header: GgufHeader, table: str, kinds: str, length: int) -> None:
    values: Any = header.metadata.get(f"tokenizer.ggml.{table}")
    if values is None:
        return
    if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds or len(values) != length:
        raise ModelLoadError(f"{header.path.name}: tokenizer.ggml.{table} does not have a number for each token.")
