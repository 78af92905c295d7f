from __future__ import annotations

import pytest

from llmapi_kit.sampling.detokenize import ByteDetokenizer, WindowDetokenizer

pytestmark = pytest.mark.kernel

TEXT = "Guten Tag, 你好 👩‍👩‍👧 naïve 한국어"


def test_bytes_come_out_as_whole_characters_only():
    raw = TEXT.encode()
    detokenizer = ByteDetokenizer(lambda i: raw[i : i + 1])
    pieces = [detokenizer.feed(i) for i in range(len(raw))]
    assert "".join(pieces) + detokenizer.flush() == TEXT
    assert "\ufffd" not in "".join(pieces)


def test_unfinished_character_comes_out_as_replacement_at_the_end_only():
    raw = "你".encode()[:2]
    detokenizer = ByteDetokenizer(lambda i: raw[i : i + 1])
    assert [detokenizer.feed(0), detokenizer.feed(1)] == ["", ""]
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_show_nothing():
    detokenizer = ByteDetokenizer({0: b"a", 1: b"", 2: b"b"}.__getitem__)
    assert [detokenizer.feed(i) for i in (0, 1, 2)] == ["a", "", "b"]


def sentencepiece_like(ids):
    """Decodes like SentencePiece: the space before the first word is dropped; bytes join to characters."""
    raw = b"".join(PIECES[i] for i in ids)
    return raw.decode("utf-8", errors="replace").removeprefix(" ")


PIECES = {i: b" w%d" % i for i in range(100)} | {100 + i: bytes([byte]) for i, byte in enumerate("你好".encode())}


def test_window_gives_the_same_text_as_decoding_everything():
    ids = [3, 4, *range(100, 106), 5]
    detokenizer = WindowDetokenizer(sentencepiece_like)
    assert "".join(detokenizer.feed(i) for i in ids) + detokenizer.flush() == sentencepiece_like(ids)


def test_window_stays_short_however_long_the_text_is():
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return sentencepiece_like(ids)

    detokenizer = WindowDetokenizer(decode)
    for i in range(2000):
        detokenizer.feed(i % 100)
    assert max(lengths) <= 3


def test_window_flushes_an_unfinished_character():
    detokenizer = WindowDetokenizer(sentencepiece_like)
    assert [detokenizer.feed(100), detokenizer.feed(101)] == ["", ""]
    assert "\ufffd" in detokenizer.flush()
