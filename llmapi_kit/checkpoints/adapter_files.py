"""LoRA adapters in PEFT's format: found, and their files checked.

Of an adapter's configuration only numbers and plain names are used, never a pattern to match with or a module to
import. Knows nothing of models, tokenizers or engines, and imports no PEFT. Blocking, like all loading.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint for the files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llmapi_kit.checkpoints.download import DEFAULT_STALL_S, find_folder
from llmapi_kit.checkpoints.hub import TOKENIZER_FILES
from llmapi_kit.checkpoints.model_files import ADAPTER_CONFIG, check_file
from llmapi_kit.errors import ModelLoadError, ModelNotFoundError, UnsupportedModelError

WEIGHTS_NAME, PICKLE_NAME = "adapter_model.safetensors", "adapter_model.bin"
MAX_CONFIG_BYTES = 1_000_000
PREFIX = "base_model.model."
# Tensors that PEFT puts beside a module's own; the others take the place of some
LORA_WEIGHT = re.compile(
    r"(.+)\.(?:lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?)"
)
PLAIN_NAME = re.compile(r"\^?[\w.]+")
# How the adapter was trained, or what its weights tell by themselves
UNUSED = {
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
}
FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out", "ensure_weight_tying", "lora_bias")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's files, looked at but not loaded.

    Attributes:
        name: as the user wrote it.
        folder: where its files are.
        base: the model it was trained on, as far as it says.
        settings: arguments of `peft.LoraConfig`, checked.
        is_tied: whether a trained embedding is meant for the output too.
        shapes: of its tensors, by the names they have in the model: ``model.layers.0.self_attn.q_proj.lora_A.weight``.
        size_bytes: of the weights.
    """

    name: str
    folder: Path
    base: str
    settings: Mapping[str, Any]
    is_tied: bool
    shapes: Mapping[str, tuple[int, ...]]
    size_bytes: int

    @property
    def has_tokenizer(self) -> bool:
        """Whether it brings a tokenizer of its own."""
        return any((self.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding it brings; 0 where it brings none."""
        names = ("embed_tokens.weight", "wte.weight", "lm_head.weight")
        return max((shape[0] for name, shape in self.shapes.items() if name.endswith(names) and shape), default=0)


def find_adapter(name: str, stall_s: float = DEFAULT_STALL_S) -> Adapter:
    """Find an adapter and check its files.

    Args:
        name: a folder, or ``owner/name`` of the hub.
        stall_s: see `llmapi_kit.checkpoints.download.Download`.

    Raises:
        ModelNotFoundError: there is none.
        UnsupportedModelError: it is in pickle, or not a LoRA that can be merged; the message says what.
        ModelLoadError: its files are damaged.
    """
    folder = find_folder(name, "LoRA adapter", (ADAPTER_CONFIG, WEIGHTS_NAME, *TOKENIZER_FILES), stall_s)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelNotFoundError(f"{name} has no {ADAPTER_CONFIG}, so it is not a LoRA adapter in PEFT's format.")
    if not (folder / WEIGHTS_NAME).is_file():
        if (folder / PICKLE_NAME).is_file():
            raise UnsupportedModelError(
                f"{name} has only pickle weights ({PICKLE_NAME}), which can run code when loaded. Save it as "
                "safetensors first: PeftModel.from_pretrained(…).save_pretrained(folder)."
            )
        raise ModelNotFoundError(f"{name} has no {WEIGHTS_NAME}.")
    for file in (ADAPTER_CONFIG, WEIGHTS_NAME):
        check_file(folder / file)
    config = _read_config(name, folder / ADAPTER_CONFIG)
    settings = _settings(name, config)
    is_tied = bool(settings.pop("ensure_weight_tying", False))
    path = folder / WEIGHTS_NAME
    base = str(config.get("base_model_name_or_path") or "")
    return Adapter(name, folder, base, settings, is_tied, _read_shapes(name, path), path.stat().st_size)


def read_tensors(adapter: Adapter) -> dict[str, torch.Tensor]:
    """An adapter's tensors, by their names in the model.

    Raises:
        ModelLoadError: they are damaged, or no finite numbers, or none is a LoRA's.
    """
    try:
        with safe_open(adapter.folder / WEIGHTS_NAME, "pt") as file:
            tensors = {name: file.get_tensor(key) for key in file.keys() if (name := _name_in_model(key))}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelLoadError(f"{adapter.name}: {WEIGHTS_NAME} is damaged: {exc}") from exc
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and bool(torch.isfinite(tensor.float()).all())):
            raise ModelLoadError(f"{adapter.name}: the weight {name} has values that are not finite numbers.")
    if not any(LORA_WEIGHT.fullmatch(name) for name in tensors):
        raise ModelLoadError(f"{adapter.name}: {WEIGHTS_NAME} has no LoRA weights.")
    return tensors


def mismatch(adapter: Adapter, reason: str) -> ModelLoadError:
    """The error for an adapter that was made for another model."""
    base = f" It says it was trained on {adapter.base!r}." if adapter.base else ""
    return ModelLoadError(f"The adapter {adapter.name} does not fit this model: {reason}.{base}")


def _name_in_model(key: str) -> str:
    """A tensor's name without PEFT's wrappers; empty for what a module was before it was trained whole."""
    name = key.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
    return "" if ".original_module." in name else name


def _read_config(name: str, path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {MAX_CONFIG_BYTES:,} bytes")
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelLoadError(f"{name}: {ADAPTER_CONFIG} can't be read: {exc}") from exc
    if not isinstance(config, dict):
        raise ModelLoadError(f"{name}: {ADAPTER_CONFIG} is not a JSON object.")
    return config


def _settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `LoraConfig`, each checked; what is neither known nor at its default is refused by name."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"{name} is an adapter of type {config.get('peft_type')!r}; LoRA can be loaded.")
    if config.get("task_type") not in ("CAUSAL_LM", None):
        raise UnsupportedModelError(f"{name} was trained for {config['task_type']!r}; CAUSAL_LM can be loaded.")
    if config.get("init_lora_weights", True) not in (True, False, None, "gaussian", "orthogonal", "eva"):
        raise UnsupportedModelError(
            f"{name} was trained with init_lora_weights={config['init_lora_weights']!r}, which changes the base "
            "model's weights. Convert it to a plain LoRA first: save_pretrained(…, path_initial_model_for_weight_"
            "conversion=…)."
        )
    settings: dict[str, Any] = {}
    for key in ("r", "lora_alpha"):
        settings[key] = _number(name, key, config.get(key, 8))
    if settings["r"] != int(settings["r"]):
        raise ModelLoadError(f"{name}: r is {settings['r']!r} in {ADAPTER_CONFIG}; it must be a whole number.")
    for key in FLAGS:
        settings[key] = config.get(key) or False
        if not isinstance(settings[key], bool):
            raise ModelLoadError(f"{name}: {key} is {settings[key]!r} in {ADAPTER_CONFIG}; it must be true or false.")
    for key in ("rank_pattern", "alpha_pattern"):
        settings[key] = _pattern(name, key, config.get(key) or {})
    handled = {"peft_type", "task_type", "init_lora_weights", *settings, *UNUSED}
    for key, value in config.items():
        # A dictionary of options is off where all of them are
        is_off = not any(value.values()) if isinstance(value, dict) else not value
        if key not in handled and not is_off:
            raise UnsupportedModelError(f"{name} was made with {key}, which can't be loaded here. Merge it with PEFT.")
    return settings


def _number(name: str, key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ModelLoadError(f"{name}: {key} is {value!r} in {ADAPTER_CONFIG}; it must be a number above 0.")
    return value


def _pattern(name: str, key: str, value: Any) -> dict[str, Any]:
    """Ranks or scales of modules that have their own. PEFT matches the names as patterns, so only plain ones pass."""
    if not isinstance(value, dict):
        raise ModelLoadError(f"{name}: {key} is not an object in {ADAPTER_CONFIG}.")
    for module in value:
        if not PLAIN_NAME.fullmatch(module):
            raise UnsupportedModelError(f"{name}: {key} has the pattern {module[:80]!r}; plain names can be loaded.")
    return {module: _number(name, key, number) for module, number in value.items()}


def _read_shapes(name: str, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors, from the file's head."""
    try:
        with safe_open(path, "pt") as file:
            keys = {key: name for key in file.keys() if (name := _name_in_model(key))}  # noqa: SIM118
            return {name: tuple(file.get_slice(key).get_shape()) for key, name in keys.items()}
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelLoadError(f"{name}: {WEIGHTS_NAME} is damaged: {exc}") from exc
