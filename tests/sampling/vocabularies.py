"""Tokenizers of every kind that models here have, small enough to be made in a test."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmapi_kit.checkpoints.spec import POCKET_DIR

POCKET_LOGITS = 3072
POCKET_EOS = (2, 0)
WORDS = [
    "true",
    "false",
    "null",
    "name",
    "value",
    "the",
    "and",
    '{"',
    '": ',
    '":',
    '", ',
    '"}',
    '"]',
    "}, ",
    "10",
    "世界",
]


@cache
def pocket():
    """Byte-level BPE, as in GPT-2, Llama 3 and Qwen."""
    return AutoTokenizer.from_pretrained(POCKET_DIR)


def _pieces(bytes_too):
    """SentencePiece's: control tokens, one for each byte, characters, and words with and without a space."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256) if bytes_too)]
    texts += [chr(code) for code in range(33, 127)] + ["▁", "▁▁", "▁▁▁▁", *"äéï世界😀\n\t"]
    texts += [space + word.replace(" ", "▁") for word in WORDS for space in ("", "▁")]
    return list(dict.fromkeys(texts))


@cache
def sentencepiece():
    """As in Llama 2 and Mistral: a byte for what is not in the vocabulary, one space cut off at the start."""
    tokenizer = _bpe()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    cut = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), cut])
    return _fast(tokenizer)


@cache
def metaspace():
    """SentencePiece without bytes for what is not in the vocabulary."""
    tokenizer = _bpe(bytes_too=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return _fast(tokenizer)


@cache
def wordpiece():
    """BERT's, whose tokens have no bytes of their own."""
    vocab = {text: i for i, text in enumerate(["[UNK]", "[PAD]", "a", "##b"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[PAD]")


def _bpe(*, bytes_too=True):
    vocab = {text: i for i, text in enumerate(_pieces(bytes_too))}
    return Tokenizer(models.BPE(vocab, [], byte_fallback=bytes_too, unk_token="<unk>"))


def _fast(tokenizer):
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
