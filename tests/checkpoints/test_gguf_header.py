"""Heads of GGUF files, hostile ones above all: a clear error, in little time and memory."""

from __future__ import annotations

import random
import resource
import struct

import pytest

from llmapi_kit.checkpoints import gguf_header
from llmapi_kit.checkpoints.gguf_header import read_header
from llmapi_kit.errors import ModelError, ModelLoadError, UnsupportedModelError
from tests.checkpoints.gguf_files import pair, raw_file, tensor, text

U32, TEXT, ARRAY, BOOL = 4, 8, 9, 7
GOOD = {
    "pairs": (
        pair("general.architecture", TEXT, text("llama")),
        pair("a.number", U32, struct.pack("<I", 7)),
        pair("a.list", ARRAY, struct.pack("<IQ3f", 6, 3, 1.0, 2.0, 3.0)),
        pair("some.texts", ARRAY, struct.pack("<IQ", TEXT, 2) + text("eins") + text("zwei")),
        pair("a.flag", BOOL, b"\1"),
    ),
    "tensors": (tensor("one", (32, 2)), tensor("two", (32,), kind=8, offset=256)),
    "body": 512,
}


def written(tmp_path, **parts):
    path = tmp_path / "file.gguf"
    path.write_bytes(raw_file(**{**GOOD, **parts}))
    return path


def test_a_good_head_is_read(tmp_path):
    header = read_header(written(tmp_path))
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["a.number"] == 7
    assert header.metadata["a.list"].tolist() == [1, 2, 3]
    assert header.metadata["some.texts"] == ["eins", "zwei"]
    assert header.metadata["a.flag"] is True
    one, two = header.tensors["one"], header.tensors["two"]
    assert (one.shape, one.kind, one.size_bytes) == ((2, 32), "F32", 256)
    assert (two.shape, two.kind, two.size_bytes) == ((32,), "Q8_0", 34)
    assert two.offset == one.offset + 256


def list_of(kind, count, values=b""):
    return pair("a.list", ARRAY, struct.pack("<IQ", kind, count) + values)


HOSTILE = {
    "another format": ({"magic": b"PK\3\4"}, "a ZIP archive"),
    "a big-endian file": ({"version": 3 << 24}, "version"),
    "an old version": ({"version": 1}, "version 1"),
    "a later version": ({"version": 4}, "version 4"),
    "very many keys": ({"num_pairs": 2**63}, "damaged"),
    "very many tensors": ({"num_tensors": 2**63}, "damaged"),
    "a key without end": ({"pairs": (struct.pack("<Q", 2**62),)}, "at most 65,535"),
    "a text without end": ({"pairs": (pair("k", TEXT, struct.pack("<Q", 2**63)),)}, "at most"),
    "a text of 4 GB": ({"pairs": (pair("k", TEXT, struct.pack("<Q", 2**32)),)}, "at most"),
    "a list of 2^60 numbers": ({"pairs": (list_of(U32, 2**60),)}, "past the end"),
    "a list of 2^60 texts": ({"pairs": (list_of(TEXT, 2**60),)}, "damaged"),
    "a list of lists": ({"pairs": (list_of(ARRAY, 2),)}, "type 9"),
    "a type that there is not": ({"pairs": (pair("k", 13, b"\0" * 8),)}, "type 13"),
    "a flag that is 2": ({"pairs": (pair("k", BOOL, b"\2"),)}, "neither true nor false"),
    "a text that is no UTF-8": ({"pairs": (pair("k", TEXT, text(b"\xff\xfe")),)}, "UTF-8"),
    "a key twice": ({"pairs": (pair("k", BOOL, b"\1"), pair("k", BOOL, b"\0"))}, "twice"),
    "a tensor twice": ({"tensors": (tensor("t"), tensor("t", offset=128))}, "twice"),
    "no dimensions": ({"tensors": (tensor("t", ()),)}, "0 dimensions"),
    "a thousand million dimensions": ({"tensors": (tensor("t", num_dimensions=2**30),)}, "dimensions"),
    "an empty tensor": ({"tensors": (tensor("t", (32, 0)),)}, "shape"),
    "a tensor of 2^126 numbers": ({"tensors": (tensor("t", (2**63, 2**63)),)}, "past the end"),
    "half a block": ({"tensors": (tensor("t", (33,), kind=8),)}, "can't store"),
    "a format that there is not": ({"tensors": (tensor("t", kind=4000),)}, "4000"),
    "an offset past the end": ({"tensors": (tensor("t", offset=2**40),)}, "past the end"),
    "an offset that wraps": ({"tensors": (tensor("t", offset=2**64 - 32),)}, "past the end"),
    "an odd offset": ({"tensors": (tensor("t", offset=1),)}, "multiple"),
    "tensors on top of each other": ({"tensors": (tensor("t"), tensor("u", offset=64))}, "overlap"),
    "an alignment of 0": ({"pairs": (pair("general.alignment", U32, struct.pack("<I", 0)),)}, "alignment"),
    "an alignment of 48": ({"pairs": (pair("general.alignment", U32, struct.pack("<I", 48)),)}, "alignment"),
    "an alignment of 2 GB": ({"pairs": (pair("general.alignment", U32, struct.pack("<I", 2**31)),)}, "alignment"),
    "an alignment in words": ({"pairs": (pair("general.alignment", TEXT, text("x")),)}, "alignment"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_nothing_a_file_declares_is_believed(case, tmp_path):
    parts, match = HOSTILE[case]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ModelLoadError, UnsupportedModelError), match=match):
        read_header(written(tmp_path, **parts))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_a_file_cut_anywhere_in_its_head_is_damaged(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole) - 512 - 32):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError):
            read_header(path)


@pytest.mark.slow
def test_mutated_heads_are_read_or_refused(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    dice = random.Random(3)
    refused = 0
    for _ in range(3000):
        mutated = bytearray(whole)
        for _ in range(dice.choice((1, 2, 8))):
            mutated[dice.randrange(len(mutated) - 512)] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
        path.write_bytes(mutated)
        try:
            read_header(path)
        except ModelError:
            refused += 1
    assert 500 < refused < 3000


def test_a_head_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 400)
    with pytest.raises(ModelLoadError, match="larger than 400 bytes"):
        read_header(written(tmp_path, pairs=(pair("k", TEXT, text("x" * 1000)),)))
    monkeypatch.setattr(gguf_header, "MAX_STRINGS", 3)
    with pytest.raises(ModelLoadError, match="more than 3 texts"):
        read_header(written(tmp_path))


def test_a_file_that_is_not_there_or_is_a_folder_says_so(tmp_path):
    for path, words in ((tmp_path / "none.gguf", "is not there"), (tmp_path, "is a folder")):
        with pytest.raises(ModelLoadError, match=words):
            read_header(path)
