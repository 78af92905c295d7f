"""A constraint in llguidance's words, with everything refused that llguidance would accept and then not honour.

Knows nothing of tokens' bytes, models or caches; pure text work, called from the thread that compiles.

Every grammar becomes one in llguidance's Lark dialect with `no_forcing` set. Without it, a text that the grammar
leaves no choice about is tokenized as a prompt would be, so that a literal "<|im_end|>" turns into the special token
of that name, which then does not match; and that text is built up in full at each step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.constraints import Constraint

# Bounded, or a weak model may write spaces until its tokens run out. What indented JSON needs is there. Escapes
# in the form of \u are left out: with them a property could be spelled twice, past what the schema says of it.
JSON_OPTIONS: dict[str, object] = {
    "whitespace_pattern": r" |\n[ \t]{0,20}",
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
}
_NO_FORCING = '%llguidance {"no_forcing": true}'
_DATA_KEYWORDS = frozenset({"const", "enum", "default", "example", "examples"})

# Texts, patterns and comments of a Lark grammar, to be passed over, and references to special tokens
_LARK_PARTS = re.compile(
    r"""(?P<skip> "(?:\\.|[^"\\\n])*" | //[^\n]* | \#[^\n]* | /(?:\\.|[^/\\])+/ ) | <(?P<token>[^<>\s]+)>""", re.VERBOSE
)
_LARK_ATTRIBUTE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*\[[^\n]*?\b(temperature|stop)\s*=", re.MULTILINE)


def grammar_text(constraint: Constraint, special_tokens: Mapping[str, int], eos_ids: Collection[int]) -> str:
    """What `llguidance.LLMatcher` is to compile.

    Args:
        constraint: the request's.
        special_tokens: text of each special token to its id.
        eos_ids: tokens that end an answer, which no grammar may name.

    Raises:
        InvalidRequestError: the constraint asks for something that would not be honoured.
    """
    source = constraint.source
    if constraint.kind in ("json_schema", "json_object"):
        lark = f"start: %json {_with_options(source, constraint.param)}"
    elif constraint.kind == "regex":
        lark = f"start: PATTERN\nPATTERN: /{_quoted_pattern(source)}/"
    elif constraint.kind == "choice":
        # One terminal rather than a rule: thousands of alternatives of a rule take seconds to compile.
        lark = "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(c, ensure_ascii=False) for c in json.loads(source))
    else:
        _check_lark(source, special_tokens, eos_ids, constraint.param)
        lark = source
    return json.dumps({"grammars": [{"lark_grammar": f"{lark}\n{_NO_FORCING}"}]})


def reason_in(error: str, constraint: Constraint) -> str:
    """What llguidance says is wrong, without its state, its stack and, for all but Lark, the text it was given."""
    reason = re.split(r"\n?<(?:state|non-verbose|backtrace)", error, maxsplit=1)[0]
    if constraint.kind == "lark":
        reason = "\n".join(line for line in reason.splitlines() if _NO_FORCING not in line)
    else:
        reason = re.split(r"\n +\d+ \|", reason, maxsplit=1)[0]
        reason = re.sub(r"^at \d+\(\d+\): ", "", reason).removeprefix("failed to compile JSON schema: ")
    reason = reason.strip()
    return reason if len(reason) <= 500 else reason[:500] + " …"


def _with_options(source: str, param: str) -> str:
    schema = json.loads(source)
    waiting: list[object] = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            _check_min_properties(value, param)
            waiting.extend(item for key, item in value.items() if key not in _DATA_KEYWORDS)
    return json.dumps({**schema, "x-guidance": JSON_OPTIONS}, ensure_ascii=False)


def _check_min_properties(schema: Mapping[str, object], param: str) -> None:
    """Properties that a schema does not name may come twice, and count twice, so a minimum would not be kept."""
    minimum, required = schema.get("minProperties"), schema.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    if isinstance(minimum, int) and minimum > max(1, num_required):
        raise InvalidRequestError(
            f"{param}: minProperties {minimum} can't be kept here. Name the properties in `required`, or leave it out.",
            param=param,
        )


def _quoted_pattern(pattern: str) -> str:
    """A pattern as it stands between two slashes in Lark."""
    quoted = re.sub(r"\\.|[/\n]", lambda found: {"/": r"\/", "\n": r"\n"}.get(found[0], found[0]), pattern)
    return quoted or "(?:)"


def _check_lark(source: str, special_tokens: Mapping[str, int], eos_ids: Collection[int], param: str) -> None:
    attribute = _LARK_ATTRIBUTE.search(source)
    if attribute is not None:
        raise InvalidRequestError(
            f"{param}: the rule attribute {attribute[1]} is not supported. Temperature is a field of the request; "
            "in place of stop use suffix or lazy.",
            param=param,
        )
    for found in _LARK_PARTS.finditer(source):
        token = found["token"]
        if token is None:
            continue
        if token.startswith("["):
            names_end = any(_is_in_ranges(token_id, token) for token_id in eos_ids)
        else:
            names_end = special_tokens.get(f"<{token}>") in eos_ids
        if names_end:
            raise InvalidRequestError(
                f"{param}: <{token}> includes a token that ends the answer ({', '.join(map(str, sorted(eos_ids)))}). "
                "Leave it out: the answer may end wherever the grammar does.",
                param=param,
            )


def _is_in_ranges(token_id: int, ranges: str) -> bool:
    """Whether ``[1-3,5]``, ``[^1-3,5]`` or ``[*]`` includes the id; False for what llguidance will refuse itself."""
    inner = ranges.strip("[]")
    if inner == "*":
        return True
    is_in = False
    for part in inner.removeprefix("^").split(","):
        low, _, high = part.partition("-")
        if low.isdecimal() and (high or low).isdecimal():
            is_in |= int(low) <= token_id <= int(high or low)
    return is_in != inner.startswith("^")
