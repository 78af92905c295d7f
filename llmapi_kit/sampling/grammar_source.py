"""A constraint in llguidance's words, with everything refused that llguidance would accept and then not honour.

Knows nothing of tokens, models or caches; pure text work, called from the thread that compiles.

Every grammar becomes one in llguidance's dialect of Lark, with `no_forcing` set. Without it, text that the grammar
leaves no choice about is tokenized as a prompt would be, so that a literal "<|im_end|>" turns into the special token
of that name, which then does not match; and all of that text is built up at each step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.constraints import Constraint

MAX_CHOICES = 10_000
# Whitespace is bounded, or a weak model may write spaces until its tokens run out; what indented JSON needs is there.
# Escapes in the form of \u are left out: with them a property could be written twice, past what the schema says of it.
JSON_OPTIONS: dict[str, object] = {
    "whitespace_pattern": r" |\n[ \t]{0,20}",
    "json_allowed_escapes": 'nrbtf\\"',
    "lenient": False,
}
_NO_FORCING = '%llguidance {"no_forcing": true}'
_DATA_KEYWORDS = frozenset({"const", "enum"})
_ANNOTATIONS = frozenset({"title", "description", "default", "example", "examples", "$comment"})
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")  # without \u
_LARK_ATTRIBUTE = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*\[[^\n]*?\b(temperature|stop)\s*=", re.MULTILINE)


def grammar_text(constraint: Constraint) -> str:
    """What `llguidance.LLMatcher` is to compile.

    Raises:
        InvalidRequestError: the constraint is malformed, or asks for something that would not be honoured.
    """
    return json.dumps({"grammars": [{"lark_grammar": f"{lark_text(constraint)}\n{_NO_FORCING}"}]})


def lark_text(constraint: Constraint) -> str:
    """The constraint as a grammar in llguidance's dialect of Lark, whose start rule is ``start``.

    Raises:
        InvalidRequestError: see `grammar_text`.
    """
    lark = {"json_object": _json_object, "json_schema": _json_schema, "regex": _regex, "choice": _choice, "lark": _lark}
    return lark[constraint.kind](constraint)


def reason_in(error: str, constraint: Constraint) -> str:
    """What llguidance says is wrong, without its state, its stack and, for all but Lark, the text it was given."""
    reason = re.split(r"\n?<(?:state|non-verbose|backtrace)", error, maxsplit=1)[0]
    if constraint.kind == "lark":
        reason = "\n".join(line for line in reason.splitlines() if _NO_FORCING not in line)
    else:
        reason = re.split(r"\n +\d+ \|", reason, maxsplit=1)[0]
        reason = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", reason)
        reason = re.sub(r" Enable 'coerce_one_of' option[^\n]*", " Use anyOf.", reason)
    reason = re.sub(r"^NoExtension\w*", "none of the model's tokens can begin an answer", reason.strip())
    return reason if len(reason) <= 500 else reason[:500] + " …"


def _json_object(constraint: Constraint) -> str:
    return _json({"type": "object"})


def _json_schema(constraint: Constraint) -> str:
    param, schema = constraint.param, _parsed(constraint)
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{param}: a JSON schema has to be an object.", param=param)
    if "x-guidance" in schema:
        raise InvalidRequestError(
            f"{param}: x-guidance is not supported; whitespace and strictness are not up to the schema.", param=param
        )
    check_schema(schema, param)
    return _json(schema)


def _json(schema: Mapping[str, Any]) -> str:
    return f"start: %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS}, ensure_ascii=False)}"


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Raise for what llguidance would accept in a schema and then not keep.

    Raises:
        InvalidRequestError: it names `param`.
    """
    waiting: list[tuple[Any, bool]] = [(schema, False)]
    while waiting:
        value, is_data = waiting.pop()
        if isinstance(value, str) and _UNWRITABLE.search(value):
            raise InvalidRequestError(f"{param}: the schema has a control character, in {value[:40]!r}.", param=param)
        if isinstance(value, list):
            waiting.extend((item, is_data) for item in value)
        elif isinstance(value, dict):
            if not is_data:
                _check_min_properties(value, param)
                _check_bounds(value, param)
            for key, item in value.items():
                waiting.append((key, True))
                if is_data or key not in _ANNOTATIONS or isinstance(item, dict):  # or a property has that name
                    waiting.append((item, is_data or key in _DATA_KEYWORDS))


def _check_min_properties(schema: Mapping[str, Any], param: str) -> None:
    """Properties that a schema does not name may come twice, and count twice, so a minimum would not be kept."""
    minimum, required = schema.get("minProperties"), schema.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    if isinstance(minimum, int) and minimum > num_required + 1:
        raise InvalidRequestError(
            f"{param}: minProperties of {minimum} can't be kept. Name the properties in `required`, or leave it out.",
            param=param,
        )


def _check_bounds(schema: Mapping[str, Any], param: str) -> None:
    """A whole number that is excluded would be let through where the range ends before the next one."""
    low, high, least, most = (_number(schema, f"{end}imum") for end in ("exclusiveMin", "exclusiveMax", "min", "max"))
    least, most = low if least is None else least, high if most is None else most
    if schema.get("type") == "integer" or least is None or most is None:
        return
    if (low is not None and low % 1 == 0 and most < low + 1) or (
        high is not None and high % 1 == 0 and least > high - 1
    ):
        raise InvalidRequestError(
            f"{param}: numbers between {least} and {most} can't be told from the one that is excluded. Widen the "
            "range, or use minimum and maximum.",
            param=param,
        )


def _number(schema: Mapping[str, Any], key: str) -> float | None:
    value = schema.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _regex(constraint: Constraint) -> str:
    pattern = constraint.source
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise InvalidRequestError(f"{constraint.param} ends with a lone backslash.", param=constraint.param)
    quoted = re.sub(r"(?s)\\.|[/\n]", lambda found: {"/": r"\/", "\n": r"\n"}.get(found[0], found[0]), pattern)
    return f"start: PATTERN\nPATTERN: /{quoted}/"


def _choice(constraint: Constraint) -> str:
    param, choices = constraint.param, _parsed(constraint)
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) and text for text in choices):
        raise InvalidRequestError(f"{param} has to be a list of texts, none of them empty.", param=param)
    if len(choices) > MAX_CHOICES:
        raise InvalidRequestError(f"{param} has {len(choices)} texts; at most {MAX_CHOICES} are allowed.", param=param)
    # One terminal rather than a rule: thousands of alternatives of a rule take seconds to compile.
    texts = (json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f") for text in choices)
    return "start: CHOICE\nCHOICE: " + " | ".join(texts)


def _lark(constraint: Constraint) -> str:
    attribute = _LARK_ATTRIBUTE.search(constraint.source)
    if attribute is not None:
        raise InvalidRequestError(
            f"{constraint.param}: the rule attribute {attribute[1]} is not supported. Temperature is a field of the "
            "request; in place of stop use suffix or lazy.",
            param=constraint.param,
        )
    return constraint.source


def _parsed(constraint: Constraint) -> Any:
    try:
        return json.loads(constraint.source)
    except RecursionError as exc:
        raise InvalidRequestError(f"{constraint.param} is nested too deeply.", param=constraint.param) from exc
    except ValueError as exc:
        raise InvalidRequestError(f"{constraint.param} is not JSON: {exc}", param=constraint.param) from exc
