"""A small picture that only its prompt decides, for an engine without a model. Needs no imaging library.

Source: PNG Specification, third edition: signature, IHDR, PLTE, IDAT, IEND.
"""

from __future__ import annotations

import hashlib
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRID = 8  # fields across and down; the left half is mirrored


def draw(prompt: str, number: int, width: int, height: int) -> bytes:
    """A PNG file: fields of one colour on another.

    Args:
        prompt: what to show; the same one gives the same picture.
        number: which of several pictures.
        width: in pixels.
        height: in pixels.
    """
    digest = hashlib.blake2b(f"{number} {prompt}".encode(errors="replace"), digest_size=16).digest()
    half = GRID // 2
    rows = []
    for row in range(GRID):
        left = [digest[row] >> column & 1 for column in range(half)]
        fields = [*left, *reversed(left)]
        rows.append(bytes(fields[x * GRID // width] for x in range(width)))
    lines = b"".join(b"\0" + rows[y * GRID // height] for y in range(height))  # filter 0: bytes as they are
    palette = bytes(128 + byte // 2 for byte in digest[8:11]) + bytes(byte // 2 for byte in digest[11:14])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits a pixel, from the palette
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
