"""Bodies as bytes: what no JSON writer makes, and what is left of a good body after an accident."""

from __future__ import annotations

from hypothesis import strategies as st

# None can stand in a JSON string: half of surrogate pairs, bytes that are no UTF-8, a control character
ODD_BYTES = [b"\xed\xa0\xbd", b"\xff", b"\x00", rb"\ud83d", rb"\ud83d\u0041", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
MARKS = [b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"e", b"-", b"1e999", b"null", b"true", b"\xef\xbb\xbf"]


@st.composite
def mutated(draw, body):
    """A body with some bytes cut out and others put in."""
    piece = st.one_of(st.sampled_from([*ODD_BYTES, *MARKS]), st.binary(min_size=1, max_size=4))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(body)))
        end = min(len(body), begin + draw(st.sampled_from([0, 0, 1, 2, 20])))
        body = body[:begin] + draw(piece) + body[end:]
    return body
