"""What an answer has to look like: a JSON schema, any JSON object, a pattern, a grammar, or one of several texts.

Knows nothing of tokens, models or HTTP, and needs neither torch nor llguidance. The API builds a `Constraint` from a
request body; `grammar_compiler` turns it into masks over the vocabulary. An error names the field as the wire does
(`param`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmapi_kit.errors import InvalidRequestError

ConstraintKind = Literal["json_schema", "json_object", "regex", "lark", "choice"]

MAX_SOURCE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Constraint:
    """A specification that the whole answer must match. A value: equal ones are compiled once.

    What needs a look into the source is checked when it is compiled.

    Attributes:
        kind: what the source is.
        source: JSON text of a schema, whose order of properties the answer keeps; nothing for ``json_object``, which
            is any JSON object; a pattern in the syntax of Rust's regex crate, without look-around and
            back-references; a grammar in llguidance's dialect of Lark; or a JSON list of texts to choose from.
        param: the request field it came from, for errors, such as ``response_format``.

    Raises:
        InvalidRequestError: the source is empty, longer than 256 KiB, or no valid Unicode.
    """

    kind: ConstraintKind
    source: str
    param: str

    def __post_init__(self) -> None:
        if not self.source and self.kind != "json_object":
            raise InvalidRequestError(f"{self.param} is empty.", param=self.param)
        try:
            size = len(self.source.encode())
        except UnicodeEncodeError as exc:
            raise InvalidRequestError(
                f"{self.param} holds half of a surrogate pair, which is not valid text.", param=self.param
            ) from exc
        if size > MAX_SOURCE_BYTES:
            raise InvalidRequestError(
                f"{self.param} is {size} bytes long; at most {MAX_SOURCE_BYTES} are allowed.", param=self.param
            )
