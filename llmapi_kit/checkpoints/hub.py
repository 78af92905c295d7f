"""The Hugging Face hub, asked about a model before anything is downloaded: is it there, is it safe, what does it weigh.

One request with a time limit, so a wrong name or a missing network is told within seconds; the loaders of transformers
would retry each file for most of a minute. Downloads nothing: that is `llmapi_kit.checkpoints.download`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from llmapi_kit.checkpoints.hub_token import ask_for_token, find_token
from llmapi_kit.checkpoints.known_names import known_names
from llmapi_kit.checkpoints.model_files import ADAPTER_CONFIG, INDEX, MODEL_FILES, VOCABULARY_FILES, WEIGHTS
from llmapi_kit.checkpoints.model_files import TOKENIZER_FILES as READ_TOKENIZER_FILES
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import LlmApiKitError, ModelNotFoundError, UnsupportedModelError

TIMEOUT_S = 10
# What a tokenizer may consist of; patterns of file names
TOKENIZER_FILES = (*READ_TOKENIZER_FILES, *VOCABULARY_FILES)
DIGEST = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
TOKENS = "https://huggingface.co/settings/tokens"
HINT = "'pocket' needs no download."


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model.

    Attributes:
        name: within the model.
        size_bytes: of its content.
        digest: of its content, which names it in the cache: SHA-256, or Git's SHA-1 for small files; empty if unknown.
    """

    name: str
    size_bytes: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class HubModel:
    """What the hub tells of a model.

    Attributes:
        name: ``owner/name``.
        commit: of its newest version.
        files: all of them.
        is_gated: whether its terms have to be accepted first.
        licence: as its page says; empty if it does not.
        token: that the hub was asked with; None for none.
        subfolder: where in it the model is that is meant; empty for the top.
    """

    name: str
    commit: str
    files: tuple[HubFile, ...]
    is_gated: bool = False
    licence: str = ""
    token: str | None = None
    subfolder: str = ""

    def __repr__(self) -> str:
        return f"HubModel({self.name!r}, {len(self.files)} files)"

    @property
    def weights(self) -> list[HubFile]:
        """The files that hold the weights that transformers would load.

        Mistral's models have theirs a second time, in a format of their own, under another name.
        """
        found = {
            name: file for name, file in self._by_name.items() if name.endswith(".safetensors") and "/" not in name
        }
        if WEIGHTS in found:
            return [found[WEIGHTS]]
        shards = [file for name, file in found.items() if fnmatch(name, "model-*")]
        return shards if INDEX in self._by_name and shards else list(found.values())

    @property
    def _by_name(self) -> dict[str, HubFile]:
        """Files by their names within the subfolder."""
        start = f"{self.subfolder}/" if self.subfolder else ""
        return {file.name.removeprefix(start): file for file in self.files if file.name.startswith(start)}

    @property
    def weights_bytes(self) -> int:
        """What the weights take on the disk."""
        return sum(file.size_bytes for file in self.weights)

    @property
    def other_files(self) -> list[HubFile]:
        """What is read beside the weights: configuration and tokenizer; no code, no pickles."""
        return self.matching((*MODEL_FILES, *TOKENIZER_FILES))

    def matching(self, patterns: tuple[str, ...]) -> list[HubFile]:
        """Files whose names fit one of several patterns; of no folder within, unless a pattern has one in it."""

        def fits(name: str, pattern: str) -> bool:
            return name.count("/") == pattern.count("/") and fnmatch(name, pattern)

        return [file for name, file in self._by_name.items() if any(fits(name, pattern) for pattern in patterns)]


def look_up(name: str, revision: str | None = None) -> HubModel:
    """What the hub tells of a model; asked for a token only where it refuses without.

    Args:
        name: ``owner/name``.
        revision: a branch, a tag or a commit; the main branch unless given.

    Raises:
        ModelNotFoundError: there is no such model, it needs a token, or the hub can't be reached.
    """
    token = find_token()
    try:
        return _ask(name, token, revision)
    except Exception as exc:
        if isinstance(exc, RevisionNotFoundError):
            raise ModelNotFoundError(
                f"{name} has no revision {revision!r} on the Hugging Face hub: pass a branch, a tag or a commit."
            ) from exc
        later = ask_for_token() if token is None and is_refusal(exc) else None
        if later is None:
            raise explain(name, exc, token) from exc
        try:
            return _ask(name, later, revision)
        except Exception as again:
            raise explain(name, again, later) from again


def check_hub_model(name: str, revision: str | None = None, subfolder: str = "") -> HubModel:
    """What the hub tells of a model that can be downloaded and loaded.

    Raises:
        ModelNotFoundError: see `look_up`; also for a gated model where there is no token.
        UnsupportedModelError: it has no safetensors weights, or is an adapter.
    """
    model = replace(look_up(name, revision), subfolder=subfolder)
    names = [file.name for file in model.files]
    if subfolder and not any(each.startswith(f"{subfolder}/") for each in names):
        folders = sorted({each.rpartition("/")[0] for each in names if "/" in each})
        raise ModelNotFoundError(
            f"{name} has no folder {subfolder!r}; it has {', '.join(folders[:20]) or 'none'}. Leave subfolder out "
            "for a model at the top."
        )
    if ADAPTER_CONFIG in names:  # transformers would load it by itself
        raise UnsupportedModelError(f"{name} is a LoRA adapter: load its base model and pass lora={name!r}.")
    if not model.weights:
        gguf = next((each for each in names if each.endswith(".gguf")), None)
        if gguf is not None:
            raise UnsupportedModelError(
                f"{name} has GGUF files and no safetensors weights. Name one of them: kit.load('hf:{name}/{gguf}')."
            )
        raise UnsupportedModelError(f"{name} has no safetensors weights; pickle weights can run code when loaded.")
    if model.is_gated and model.token is None:
        token = ask_for_token()
        if token is None:
            raise ModelNotFoundError(_gated(name, None))
        return replace(model, token=token)
    return model


def endpoint() -> str:
    """Where the hub is, or a mirror of it: ``HF_ENDPOINT`` of the environment."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def is_refusal(error: Exception) -> bool:
    """Whether the hub might answer somebody it knows."""
    return isinstance(error, RepositoryNotFoundError) or status_of(error) in (401, 403)


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error of huggingface_hub or httpx; None without one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return int(status) if status is not None else None


def explain(name: str, error: Exception, token: str | None) -> LlmApiKitError:
    """What a person can do about an error of the hub.

    Args:
        name: of the model.
        error: that huggingface_hub or httpx raised.
        token: that the hub was asked with.
    """
    code = getattr(getattr(error, "response", None), "headers", {}).get("X-Error-Code", "")
    status = status_of(error)
    if isinstance(error, GatedRepoError) or code == "GatedRepo":
        return ModelNotFoundError(_gated(name, token))
    if status == 401 and token is not None:
        return ModelNotFoundError(
            f"The Hugging Face hub does not accept the token it was asked with for {name}, or there is no such model. "
            f"Check the name; make a new token at {TOKENS} and set HF_TOKEN, or remove the old one. {HINT}"
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        meant = did_you_mean(name, known_names())
        private = "" if token else " A private model needs HF_TOKEN in the environment."
        return ModelNotFoundError(f"The Hugging Face hub has no model {name!r}. Check the name.{meant}{private} {HINT}")
    if constants.HF_HUB_OFFLINE:
        return ModelNotFoundError(
            f"{name} is not whole on this machine, and HF_HUB_OFFLINE says not to ask the Hugging Face hub, which "
            f"therefore can't be reached. Unset it and restart, or load another model. {HINT}"
        )
    if status == 429:
        return ModelNotFoundError(
            f"The Hugging Face hub answers no more requests for {name} now (429). Wait some minutes; with HF_TOKEN set "
            f"it allows more. {HINT}"
        )
    text = str(error).strip().splitlines()
    return ModelNotFoundError(
        f"{name} is not on this machine, and the Hugging Face hub can't be reached at {endpoint()}: "
        f"{text[0] if text else type(error).__name__}. Check the network, or set HF_ENDPOINT to a mirror. {HINT}"
    )


def _ask(name: str, token: str | None, revision: str | None) -> HubModel:
    api = huggingface_hub.HfApi(endpoint=endpoint(), token=token or False)  # False: else Colab's secrets are asked
    info: Any = api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    commit = info.sha or ""
    if not DIGEST.fullmatch(commit):  # it becomes the name of a folder
        raise ValueError(f"it tells a version {commit[:80]!r}, which is not a commit")
    files = [HubFile(file.rfilename, file.size or 0, _digest(file)) for file in info.siblings or ()]
    card = getattr(info, "card_data", None)
    licence = str(getattr(card, "license", None) or "")
    return HubModel(name, commit, tuple(files), bool(info.gated), licence, token)


def _digest(file: Any) -> str:
    """What names a content in the cache; empty for what can't be the name of a file."""
    found = file.lfs.sha256 if file.lfs else file.blob_id or ""
    return found if DIGEST.fullmatch(found) else ""


def _gated(name: str, token: str | None) -> str:
    page = f"https://huggingface.co/{name}"
    if token is None:
        return (
            f"{name} is gated: accept its terms at {page}, make a token that can read at {TOKENS}, and set HF_TOKEN in "
            f"the environment or among Colab's secrets. {HINT}"
        )
    return (
        f"{name} is gated, and the token that was used may not read it: accept its terms at {page} with the account of "
        f"that token; some makers take days to answer. {HINT}"
    )
