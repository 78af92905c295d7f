"""What a language model in this process can do, as its template, its dialect and its pictures say."""

from __future__ import annotations

from collections.abc import Collection

from llmapi_kit.dialects import Dialect


def capabilities_of(template_variables: Collection[str], dialect: Dialect, *, sees: bool) -> tuple[str, ...]:
    """The names for `EngineInfo.capabilities`.

    Args:
        template_variables: what its chat template reads; none where it has no template.
        dialect: how it writes calls and reasoning.
        sees: whether it takes pictures.
    """
    has = {
        "chat": bool(template_variables),
        "completions": True,
        "embeddings": True,
        "tools": "tools" in template_variables and dialect.has_calls,
        "reasoning": dialect.reasoning is not None,
        "vision": sees,
    }
    return tuple(name for name, is_there in has.items() if is_there)
