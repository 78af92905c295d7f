"""What an answer has to look like: a JSON schema, any JSON object, a pattern, a grammar, or one of several texts.

Knows nothing of tokens, models or HTTP, and needs neither torch nor llguidance. The API builds a `Constraint` from a
request body; `grammar_compiler` turns it into masks over the vocabulary. An error names the field as the wire does
(`param`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmapi_kit.errors import InvalidRequestError

ConstraintKind = Literal["json_schema", "json_object", "regex", "lark", "choice"]

MAX_SOURCE_BYTES = 256 * 1024
MAX_CHOICES = 10_000


@dataclass(frozen=True, slots=True)
class Constraint:
    """A specification that answers must match from the first to the last character.

    A value: equal constraints are compiled once. Make it with one of the class methods, which check what can be
    checked without a tokenizer.

    Attributes:
        kind: what `source` is.
        source: canonical JSON text of the schema, the pattern, the grammar, or a JSON list of the choices.
        param: the request field it came from, for errors, such as ``response_format``.

    Raises:
        InvalidRequestError: the source is empty, larger than 256 KiB, or no valid Unicode.
    """

    kind: ConstraintKind
    source: str
    param: str

    def __post_init__(self) -> None:
        if not self.source:
            raise InvalidRequestError(f"{self.param} is empty.", param=self.param)
        try:
            size = len(self.source.encode())
        except UnicodeEncodeError as exc:
            raise InvalidRequestError(
                f"{self.param} holds half of a surrogate pair, which is no valid text.", param=self.param
            ) from exc
        if size > MAX_SOURCE_BYTES:
            raise InvalidRequestError(
                f"{self.param} is {size} bytes long; at most {MAX_SOURCE_BYTES} are allowed.", param=self.param
            )

    @classmethod
    def json_schema(cls, schema: object, *, param: str) -> Constraint:
        """The answer is JSON that is valid under the schema, with the properties in the schema's order."""
        if not isinstance(schema, Mapping):
            raise InvalidRequestError(f"{param}: a JSON schema has to be an object.", param=param)
        if "x-guidance" in schema:
            raise InvalidRequestError(
                f"{param}: x-guidance is not supported; whitespace and strictness are set by this server.",
                param=param,
            )
        return cls("json_schema", _canonical_json(schema, param), param)

    @classmethod
    def json_object(cls, *, param: str) -> Constraint:
        """The answer is any JSON object."""
        return cls("json_object", '{"type":"object"}', param)

    @classmethod
    def regex(cls, pattern: str, *, param: str) -> Constraint:
        """The whole answer matches the pattern (syntax of Rust's regex crate: no look-around, no back-references)."""
        return cls("regex", pattern, param)

    @classmethod
    def lark(cls, grammar: str, *, param: str) -> Constraint:
        """The whole answer is derived from `start` of a grammar in llguidance's dialect of Lark."""
        return cls("lark", grammar, param)

    @classmethod
    def choice(cls, choices: Sequence[str], *, param: str) -> Constraint:
        """The answer is exactly one of the texts."""
        if not choices or not all(choices):
            raise InvalidRequestError(f"{param} needs at least one text, and none of them empty.", param=param)
        if len(choices) > MAX_CHOICES:
            raise InvalidRequestError(
                f"{param} has {len(choices)} choices; at most {MAX_CHOICES} are allowed.", param=param
            )
        return cls("choice", _canonical_json(list(choices), param), param)


def _canonical_json(value: object, param: str) -> str:
    # The order of keys is kept: it is the order in which the answer's properties come.
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError as exc:
        raise InvalidRequestError(f"{param} is nested too deeply.", param=param) from exc
    except (TypeError, ValueError) as exc:
        raise InvalidRequestError(f"{param} is not JSON: {exc}", param=param) from exc
