"""What a model's name means: one that ships with the kit, files, a repository on the hub, or a provider's model.

Knows nothing of torch or of loading; looks at names and at the file system only.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmapi_kit.checkpoints.known_names import known_names
from llmapi_kit.checkpoints.model_files import ADAPTER_CONFIG
from llmapi_kit.checkpoints.plugins import find_plugin, plugin_names
from llmapi_kit.checkpoints.providers import PROVIDERS
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError, ModelNotFoundError, UnsupportedModelError

POCKET_DIR = Path(__file__).parent / "pocket"
POCKET_EMBED_DIR = Path(__file__).parent / "pocket_embed"
POCKET_VISION_DIR = Path(__file__).parent / "pocket_vision"
UPSTREAM = re.compile(r"(?P<provider>[a-z][a-z0-9_-]*)(?:\+(?P<scheme>https?))?:(?P<rest>.*)", re.DOTALL)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
GGUF_OF_HUB = re.compile(rf"hf:(?P<repository>{HUB_ID.pattern})(?:[/:](?P<file>[^:\\\s]+))?")
# Of a GGUF model in several files
PART_ENDING = re.compile(r"-\d{5}-of-\d{5}$", re.ASCII)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class UpstreamName:
    """A provider's model.

    Attributes:
        provider: one of `llmapi_kit.checkpoints.providers.PROVIDERS`.
        model: its name there; empty for the first one that it serves.
        base_url: where it answers; empty for the provider's own place.
    """

    provider: str
    model: str = ""
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class GgufName:
    """A GGUF file of the Hugging Face hub.

    Attributes:
        repository: ``owner/name``.
        file: which of its files: a name, a pattern, or a number format such as ``Q4_K_M``; empty for the usual one.
    """

    repository: str
    file: str = ""

    @property
    def text(self) -> str:
        """As users write it."""
        return f"hf:{self.repository}/{self.file}" if self.file else f"hf:{self.repository}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A name, understood.

    Attributes:
        name: as the user wrote it.
        id: what clients pass as ``model``; empty where only the provider can tell.
        kind: who loads it.
        path: folder of the files, or the GGUF file; None for the mock and for hub models.
        upstream: who answers elsewhere; None for models that run here.
        gguf: a GGUF file of the hub; None for any other model.
    """

    name: str
    id: str
    kind: Literal["mock", "folder", "hub", "gguf", "upstream", "plugin"]
    path: Path | None = None
    upstream: UpstreamName | None = None
    gguf: GgufName | None = None


def parse_spec(name: str | os.PathLike[str]) -> ModelSpec:
    """Understand a model's name.

    Args:
        name: ``pocket``, ``pocket-vision``, ``pocket-embed``, ``mock``, a folder with a model in it, a GGUF file,
            ``owner/name`` of the Hugging Face hub, a GGUF file of it (``hf:owner/name/file.gguf``,
            ``hf:owner/name:Q4_K_M``), or a provider's model: ``openai:gpt-…``, ``ollama:llama3.2``,
            ``vllm:http://host:port/v1#model``,
            ``openai+https://host/base/v1#model`` for any server with OpenAI's API; or ``plugin:model``, for a back end
            that another package brings. A `pathlib.Path` is a folder or a file, never another name.

    Raises:
        ConfigError: it is neither text nor a path.
        ModelNotFoundError: it is none of these.
        UnsupportedModelError: it is something this version can't serve.
    """
    name = name_of(name)
    if name == "pocket":
        return ModelSpec(name, "pocket", "folder", POCKET_DIR)
    if name == "pocket-embed":
        return ModelSpec(name, name, "folder", POCKET_EMBED_DIR)
    if name == "pocket-vision":
        return ModelSpec(name, name, "folder", POCKET_VISION_DIR)
    if name == "mock":
        return ModelSpec(name, "mock", "mock")
    if name.startswith("hf:"):
        return _gguf_of_hub(name)
    try:
        local = _in_files(name)
    except (OSError, RuntimeError) as exc:  # no permission, a name too long, a home of nobody
        raise ModelNotFoundError(
            f"{name[:200]!r} can't be looked at: {getattr(exc, 'strerror', None) or exc}."
        ) from exc
    if local is not None:
        return local
    if (found := UPSTREAM.fullmatch(name)) is not None:
        return _upstream(name, found["provider"], found["rest"], found["scheme"])
    if name.startswith((".", "/", "~")) or not HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"There is no model {name!r}.{did_you_mean(name, known_names())} "
            "Use 'pocket' or 'pocket-vision' (they ship with the kit), 'mock', a folder with config.json and "
            "*.safetensors, a GGUF file, a hub name such as 'Qwen/Qwen3-0.6B', or a provider's model such as "
            "'openai:gpt-…'."
        )
    return ModelSpec(name, name, "hub")


def name_of(given: Any) -> str:
    """What was given as text: a path as one that no name of the kit or of the hub can be taken for.

    Raises:
        ConfigError: it is neither text nor a path.
    """
    if isinstance(given, str):
        return given
    text = os.fspath(given) if isinstance(given, os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigError(f"A model is named by text or a path, not by {type(given).__name__}.")
    return text if text.startswith(("~", ".")) or Path(text).is_absolute() else os.path.join(".", text)


def _in_files(name: str) -> ModelSpec | None:
    """A folder or a GGUF file; None where the name is neither."""
    path = Path(name).expanduser()
    if name and path.is_dir():
        _check_folder(path)
        return ModelSpec(name, path.resolve().name, "folder", path.resolve())
    if path.suffix == ".gguf" and not path.is_file():
        raise ModelNotFoundError(f"There is no GGUF file {name}. One of the hub is 'hf:owner/name/file.gguf'.")
    if name and path.is_file():
        return ModelSpec(name, PART_ENDING.sub("", path.stem), "gguf", path.resolve())
    return None


def _gguf_of_hub(name: str) -> ModelSpec:
    """``hf:owner/name/file.gguf``, ``hf:owner/name/*Q4_K_M*`` or ``hf:owner/name:Q4_K_M``."""
    found = GGUF_OF_HUB.fullmatch(name)
    if found is None:
        raise ModelNotFoundError(
            f"{name[:200]!r} names no GGUF file of the Hugging Face hub: write 'hf:owner/name/file.gguf', "
            "'hf:owner/name/*Q4_K_M*' or 'hf:owner/name:Q4_K_M'."
        )
    wanted = GgufName(found["repository"], found["file"] or "")
    is_file = wanted.file.endswith(".gguf") and not any(char in wanted.file for char in "*?[")
    plain = Path(wanted.file).stem if is_file else wanted.repository.partition("/")[2]
    return ModelSpec(name, PART_ENDING.sub("", plain), "gguf", gguf=wanted)


def _upstream(name: str, provider: str, rest: str, scheme: str | None) -> ModelSpec:
    """``provider:model``, ``provider:http://host/v1#model`` or ``openai+http://host/v1#model``.

    Also ``plugin:model``, of a back end that another package brings; the providers' names are taken.
    """
    if scheme is not None and provider == "openai":
        provider, rest = "compatible", f"{scheme}:{rest}"
    if scheme is None and provider not in PROVIDERS and find_plugin(provider) is not None:
        if not rest.isprintable() or not rest.strip():
            raise ModelNotFoundError(f"{provider}: needs the name of a model, such as '{provider}:name'.")
        return ModelSpec(name, rest, "plugin")
    if (scheme is not None and provider != "compatible") or provider not in PROVIDERS:
        installed = "".join(f", {plugin}" for plugin in plugin_names())
        raise ModelNotFoundError(
            f"There is no provider {provider!r}.{did_you_mean(provider, PROVIDERS)} "
            f"Known are: {', '.join(PROVIDERS)}{installed}; any server with "
            "OpenAI's API is 'openai+https://host/v1#model'."
        )
    url, model = "", rest
    if rest.startswith(("http://", "https://")):
        url, _, model = rest.partition("#")
        if "@" in url.split("/")[2]:
            raise ModelNotFoundError(f"{provider}: the address has a user or a password. Give the key as api_key.")
    if not model.isprintable() or model != model.strip() or not (model or url):
        raise ModelNotFoundError(f"{provider}: needs the name of a model, such as '{provider}:name'.")
    return ModelSpec(name, model, "upstream", upstream=UpstreamName(provider, model, url))


def _check_folder(path: Path) -> None:
    if (path / ADAPTER_CONFIG).is_file():  # transformers would load what it names, whatever that is
        raise UnsupportedModelError(
            f"{path} has an {ADAPTER_CONFIG}: it is a LoRA adapter. Load its base model and pass "
            f"lora={str(path)!r}; where its weights are whole, remove that file."
        )
    if (path / "modules.json").is_file():  # of sentence-transformers, which may have its weights in a folder within
        return
    if not os.path.lexists(path / "config.json"):  # what else is wrong with it is told when it is read
        versions = sorted(each for each in path.glob("snapshots/*") if each.is_dir())
        if versions:
            raise ModelNotFoundError(
                f"{path} is a model's place in a hub cache. Name one of its versions, {versions[-1]}; or set "
                f"HF_HUB_CACHE to {path.parent} before Python starts, and name it as on the hub."
            )
        files = sorted(path.glob("*.gguf"))
        if files:
            raise ModelNotFoundError(f"{path} has GGUF files: name the one to load, such as {files[0]}.")
        raise ModelNotFoundError(f"{path} has no config.json, so it is not a Hugging Face model folder.")
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise UnsupportedModelError(
            f"{path} has only pickle weights ({pickles[0]}), which can run code when loaded. Convert them to "
            f"safetensors first: python -m llmapi_kit.checkpoints.pickle_weights {shlex.quote(str(path))}"
        )
    raise ModelNotFoundError(f"{path} has no *.safetensors weights.")
