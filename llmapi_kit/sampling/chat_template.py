"""A chat template that did not come with a tokenizer of transformers, rendered where it can do no harm.

The rules are those of `apply_chat_template`, and so is the sandbox (CVE-2024-34359 was a template that broke out of
one). Knows nothing of tokens. Called from worker threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from llmapi_kit.errors import InvalidRequestError


class ChatTemplate:
    """Renders conversations.

    Args:
        source: Jinja; several by name, of which ``tool_use`` is for requests with tools; or none.
        special_tokens: ``bos_token`` and so on, for templates that write them.

    Attributes:
        source: as given.
    """

    def __init__(self, source: str | Mapping[str, str] | None, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
        """The text of a conversation.

        Args:
            messages: as the template expects them; at least one.
            options: of `apply_chat_template`.

        Raises:
            InvalidRequestError: there is no template, or it refuses these messages.
        """
        if not self.source:
            raise InvalidRequestError(
                "This model has no chat template. Use /v1/completions, or load an instruction-tuned model.",
                param="messages",
            )
        try:
            source = self._chosen(has_tools=options.get("tools") is not None)
            # Many templates fail on null where they do well without the key
            conversation = [{key: value for key, value in each.items() if value is not None} for each in messages]
            given = {**self._special_tokens, **options}
            rendered: Any = render_jinja_template(conversations=[conversation], chat_template=source, **given)
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as exc:
            raise InvalidRequestError(
                f"The model's chat template can't render these messages: {exc}", param="messages"
            ) from exc
        return str(rendered[0][0])

    def _chosen(self, *, has_tools: bool) -> str:
        if self.source is None or isinstance(self.source, str):
            return self.source or ""
        for name in ("tool_use", "default") if has_tools else ("default",):
            if name in self.source:
                return self.source[name]
        raise ValueError(f"it has the templates {', '.join(sorted(self.source))} and none for this")
