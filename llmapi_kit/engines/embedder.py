"""Who reranks, and who embeds with a prompt or cuts long inputs: asked of an engine whatever it is."""

from __future__ import annotations

from llmapi_kit.engines.base import Embedder, Engine
from llmapi_kit.errors import UnsupportedFieldError


def embedder_of(engine: Engine) -> Embedder:
    """The engine, as one that has `Embedder`'s methods.

    Raises:
        UnsupportedFieldError: it has not.
    """
    if not isinstance(engine, Embedder) or "rerank" not in engine.info.capabilities:
        raise UnsupportedFieldError(
            f"The model {engine.info.id!r} scores no texts. Name a reranker or an embedding model, such as "
            "'pocket-embed'.",
            param="model",
        )
    return engine
