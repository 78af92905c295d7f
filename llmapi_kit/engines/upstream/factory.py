"""From a provider's model to the engine that asks it: where it answers, with which keys, and what it can do.

Blocking: a server that was given without a model's name, and another server of this package, are asked what they
serve. Called from a cell or a worker thread.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from llmapi_kit.checkpoints.providers import Provider, provider_of
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.config import Settings
from llmapi_kit.engines.upstream.engine import UpstreamEngine
from llmapi_kit.engines.upstream.key_pool import Key, read_keys
from llmapi_kit.engines.upstream.request_body import NEUTRAL
from llmapi_kit.errors import ConfigError, ModelLoadError, ModelNotFoundError
from llmapi_kit.loopback import LOOPBACK
from llmapi_kit.types import EngineInfo

logger = logging.getLogger(__name__)

# What a hosted model is for, by its name: a provider's list of models does not say.
EMBEDDING_NAME = re.compile(r"embed|(^|[/-])(bge|e5|gte)-", re.IGNORECASE)
IMAGE_NAME = re.compile(r"dall-e|gpt-image|imagen|flux|stable-diffusion|-image", re.IGNORECASE)
COMPLETION_NAME = re.compile(r"-instruct\b|^(davinci|babbage)-002")  # OpenAI's that hold no conversation
SHORTENABLE = "text-embedding-3"  # trained so that vectors can be cut
# What another server of this kit can do and cannot be asked for through this one
NOT_PASSED_ON = {"rerank"}


def make_upstream(
    spec: ModelSpec,
    settings: Settings,
    *,
    api_key: str | Sequence[str] | None = None,
    base_url: str | None = None,
    sampling: Mapping[str, float] | None = None,
) -> UpstreamEngine:
    """Make the engine of a provider's model.

    Args:
        spec: which.
        settings: limits and retries.
        api_key: one key, or several in rotation; the provider's environment variable unless given.
        base_url: where it answers, in place of the provider's own.
        sampling: what holds where a request does not say: ``temperature``, ``top_p``…

    Raises:
        ConfigError: a key is needed and there is none, the base URL is not valid, or the provider does not honour one
            of the sampling parameters.
        ModelLoadError: it has to be asked what it serves, and does not answer.
        ModelNotFoundError: it does not serve that model.
    """
    if spec.upstream is None:
        raise ModelNotFoundError(f"{spec.name!r} is not a provider's model.")
    provider = provider_of(spec.upstream.provider)
    url = check_base_url(provider, base_url or spec.upstream.base_url)
    keys = read_keys(provider, api_key)
    host = urlsplit(url).hostname or ""
    if url.startswith("http://") and host not in LOOPBACK and keys[0].reveal():
        logger.warning("The API key for %s travels unencrypted: its base URL begins with http://", provider.name)
    model, details = spec.upstream.model, {}
    if provider.lists_models and (not model or provider.name == "kit"):
        card = _find_model(provider, url, keys[0], model, settings.upstream_connect_s)
        model, details = str(card["id"]), card
    defaults = {**_defaults(details), **(sampling or {})}
    for name in defaults:
        if name not in provider.chat | provider.completions or name not in NEUTRAL:
            raise ConfigError(f"sampling has {name!r}, which {provider.name} does not honour.")
    info = EngineInfo(
        id=spec.id or model,
        context_length=_context_length(details),
        created=int(time.time()),
        owned_by=host if provider.name == "compatible" else provider.name,
        description=f"{model}, answered by {provider.name if provider.base_url else host}.",
        capabilities=_capabilities(provider, model, details),
        defaults=defaults,
    )
    return UpstreamEngine(info, provider, model=model, base_url=url, keys=keys, settings=settings)


def check_base_url(provider: Provider, given: str) -> str:
    """The address of an upstream, without a slash at its end.

    Raises:
        ConfigError: there is none, or it can't be used; the message shows nothing that may be a secret.
    """
    url = given or os.environ.get(provider.base_url_variable or "", "") or provider.base_url
    if not url:
        variable = f" or set {provider.base_url_variable}" if provider.base_url_variable else ""
        raise ConfigError(
            f"{provider.name} needs to know where it answers: load '{provider.name}:http://host:port/v1#model', pass "
            f"base_url{variable}."
        )
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigError(f"The base URL for {provider.name} is not valid: write http:// or https://, then a host.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"The base URL for {provider.name} has a user, a query or a fragment. Give the key as api_key instead."
        )
    return url.rstrip("/")


def _find_model(provider: Provider, url: str, key: Key, model: str, timeout_s: float) -> dict[str, Any]:
    """What a server says of a model; of its first one where none is named."""
    headers = {"Authorization": f"Bearer {key.reveal()}"} if key.reveal() else {}
    host = urlsplit(url).hostname or ""
    problem = ""
    cards: Any = None
    try:
        with httpx.Client(timeout=timeout_s, trust_env=host not in LOOPBACK) as client:
            response = client.get(f"{url}/models", headers=headers)
        if response.status_code in (401, 403):
            problem = (
                f"it refuses the API key (HTTP {response.status_code}); pass api_key or set {provider.key_variable}"
            )
        elif response.status_code != 200:
            problem = f"it answered with HTTP {response.status_code}"
        else:
            cards = response.json().get("data")
    except httpx.HTTPError as exc:
        if model:  # it may come up later, and meanwhile another engine may stand in
            logger.warning("%s at %s can't be reached now (%s)", provider.name, host, type(exc).__name__)
            return {"id": model}
        problem = f"it can't be reached ({type(exc).__name__})"
    except (ValueError, AttributeError):
        pass
    if not problem and not (isinstance(cards, list) and all(isinstance(c, dict) and c.get("id") for c in cards)):
        problem = "its list of models can't be read"
    if problem:
        raise ModelLoadError(
            f"{provider.name} at {host} was asked for its models, and {problem}. Is the base URL right?"
        )
    found = next((card for card in cards if model in ("", card["id"])), None)
    if found is None:
        names = ", ".join(str(card["id"])[:80] for card in cards[:20]) or "none"
        raise ModelNotFoundError(f"{provider.name} at {host} serves no model {model!r}. It serves: {names}.")
    return dict(found)


def _context_length(card: dict[str, Any]) -> int:
    details = card.get("llmapi_kit")
    length = details.get("context_length") if isinstance(details, dict) else card.get("max_model_len")
    return length if isinstance(length, int) and length > 0 else 0


def _defaults(card: dict[str, Any]) -> dict[str, float]:
    """What the model's makers recommend."""
    details = card.get("llmapi_kit")
    told = details.get("defaults") if isinstance(details, dict) else None
    return {str(name): value for name, value in told.items() if name in NEUTRAL} if isinstance(told, dict) else {}


def _capabilities(provider: Provider, model: str, card: dict[str, Any]) -> tuple[str, ...]:
    details = card.get("llmapi_kit")
    if isinstance(details, dict) and isinstance(told := details.get("capabilities"), list) and told:
        return tuple(str(word) for word in told if word not in NOT_PASSED_ON)
    if provider.has_embeddings and EMBEDDING_NAME.search(model):
        return ("embeddings", "dimensions") if model.startswith(SHORTENABLE) else ("embeddings",)
    if provider.has_images and IMAGE_NAME.search(model):
        return ("images",)
    if provider.name == "openai":
        return ("completions",) if COMPLETION_NAME.search(model) else ("chat", "tools")
    has = {
        "chat": bool(provider.chat) or provider.only_continues,
        "completions": bool(provider.completions),
        "tools": "tools" in provider.chat,
        "embeddings": provider.has_embeddings and provider.lists_models,
        "images": provider.name == "compatible",
    }
    return tuple(word for word, is_there in has.items() if is_there)
