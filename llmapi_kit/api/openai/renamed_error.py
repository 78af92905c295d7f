"""Errors in the words of the API that was asked: what chat completions call ``messages`` is ``input`` elsewhere."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from llmapi_kit.errors import RequestError


def renamed(error: RequestError, names: Mapping[str, str]) -> RequestError:
    """The same error for another API.

    Args:
        error: names fields of chat completions, in `param` and in the message.
        names: what each of them is called there; one that ends with a dot stands for all that is within a field.
    """
    within = f"{(error.param or '').partition('.')[0]}."
    name = names.get(error.param or "", names.get(within if error.param not in (None, within[:-1]) else ""))
    if error.param is None or name is None:
        return error
    message = re.sub(rf"(?<![\w.]){re.escape(error.param)}(?![\w.]\w)", name, error.message)
    return type(error)(message, param=name, code=error.code, retry_after_s=error.retry_after_s)


@contextlib.contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Errors that leave the block are renamed."""
    try:
        yield
    except RequestError as exc:
        raise renamed(exc, names) from exc
