"""JSON from strangers, parsed strictly: UTF-8, of a limited depth, and nothing that could not be sent back.

Knows nothing of requests. Takes time in proportion to the body's length, whatever is in it.

Source: RFC 8259, section 8.1 (UTF-8 is required, a byte order mark may be ignored) and 8.2 (half of a surrogate pair).
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any

from llmapi_kit.errors import InvalidRequestError

MAX_DIGITS = 300
STEPS = [1 if chr(code) in "[{" else -1 for code in range(256)]  # how much deeper a bracket leads
NO_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")
# Tells whether a number may be too large, in a fraction of the time that a look at each number takes
DIGITS = bytes(ord("0") if chr(code).isdigit() and code < 128 else code for code in range(256)).replace(b"E", b"e")
MANY_DIGITS = b"0" * (MAX_DIGITS // 2)
EXPONENT = b"0e"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(body: bytes, max_depth: int) -> Any:
    """Parse JSON.

    Raises:
        InvalidRequestError: it is not JSON in UTF-8, is nested too deep, or has numbers or text that JSON has not.
    """
    if not body.strip():
        raise InvalidRequestError("The body is empty; send a JSON object.")
    text = _decode(body)
    if _may_exceed(body, max_depth) and (depth := _depth(body)) > max_depth:
        raise InvalidRequestError(f"The JSON is nested {depth} levels deep; at most {max_depth} are allowed.")
    try:
        if _may_have_huge_number(body):
            value = json.loads(text, parse_constant=_refuse_constant, parse_int=_parse_int, parse_float=_parse_float)
        else:
            value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        raise InvalidRequestError(f"The body is not valid JSON: {exc}.") from exc
    if "\\u" in text:
        _check_escapes(value)
    return value


def _decode(body: bytes) -> str:
    """The body as text; a byte order mark, which some editors write, is left out."""
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        raise InvalidRequestError(f"The body is encoded in {encoding.upper()}; send JSON in UTF-8.")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(
            f"The body is not UTF-8 (byte {body[exc.start]:#04x} at position {exc.start}); send JSON in UTF-8."
        ) from exc


def _may_exceed(body: bytes, max_depth: int) -> bool:
    return body.count(b"[") + body.count(b"{") > max_depth


def _depth(body: bytes) -> int:
    """How deep brackets nest at most, strings left out; runs before the recursive parser sees the text.

    A backslash outside of a string misleads it, and is where the parser stops.
    """
    without_escapes = body.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = b"".join(without_escapes.split(b'"')[::2]).translate(None, delete=NO_BRACKETS)
    return max(accumulate(map(STEPS.__getitem__, brackets)), default=0)


def _may_have_huge_number(body: bytes) -> bool:
    digits = body.translate(DIGITS)
    return MANY_DIGITS in digits or EXPONENT in digits


def _check_escapes(value: Any) -> None:
    """Raise for half of a surrogate pair, which is not text and could not be sent back."""
    found = LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False))
    if found is not None:
        raise InvalidRequestError(
            f"The JSON has \\u{ord(found[0]):04x}, which is half of a surrogate pair and no character."
        )


def _refuse_constant(name: str) -> None:
    raise InvalidRequestError(f"The JSON has {name}, which is not a JSON number.")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequestError(f"The JSON has a number of {len(digits)} digits; at most {MAX_DIGITS} are allowed.")
    return int(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise InvalidRequestError(f"The JSON has the number {digits[:40]}, which is too large.")
    return number
