"""Is a model one that can be served: a text model that writes on from what it reads, told by its configuration.

Asked first of all, before memory, tokenizer or weights. `check_architecture` reads names only and is free of torch;
`read_config` asks transformers, from a folder or from the hub, and downloads no more than the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.config_fields import MAX_NUMBER
from llmapi_kit.checkpoints.heavy_imports import MODEL_CLASSES, import_heavy
from llmapi_kit.checkpoints.model_files import CONFIG, read_json
from llmapi_kit.checkpoints.remote_code import brings_code, how_to_trust
from llmapi_kit.errors import LlmApiKitError, ModelLoadError, UnsupportedModelError

CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "ModelWithLMHead", "WithLMHeadModel", "GenerationDecoder")
SERVED = "Served are decoder-only text models, such as LlamaForCausalLM, Qwen3ForCausalLM or GPT2LMHeadModel."
# What a model of another kind does, by the end of its architecture's name; the first that fits
KINDS = (
    ("ForMaskedLM", "an encoder, which fills in masked words"),
    ("ForPreTraining", "an encoder with the heads of its training"),
    ("ForSequenceClassification", "a classifier or a reward model, which gives scores and no text"),
    ("RewardModel", "a reward model, which gives scores and no text"),
    ("Classification", "a classifier, which gives no text"),
    ("ForQuestionAnswering", "a model that marks answers in a text"),
    ("ForMultipleChoice", "a model that chooses among given answers"),
    ("ForCTC", "a speech recogniser"),
    ("EncoderModel", "an encoder"),
    ("Model", "a model without an output layer, so that it makes no text"),
)
PARTS = {"vision_config": "images", "audio_config": "sound", "video_config": "video"}
POSITIVE = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings")
MISSING: Any = object()
# Families that transformers has as causal language models, and why they are not served
NOT_SERVED = {
    "blt": "a model of bytes in patches, for which transformers can make no cache, so that generate() fails, too",
    "reformer": "a model that finds what to attend to by random hashes, so that its answers are never the same",
}
# How a model may call the longest sequence that it has positions for
LIMITS = ("max_position_embeddings", "max_seq_len", "n_positions")
# Whose factors transformers chooses by the longest sequence of a forward pass
LENGTH_DEPENDENT_ROPES = ("longrope", "dynamic")


def check_architecture(config: Mapping[str, Any], name: str, *, trusts_code: bool = False) -> None:
    """Raise unless a configuration is of a causal language model, by the names in it.

    Args:
        config: the content of a config.json.
        name: the model's, for messages.
        trusts_code: whether code of its own may say what it is.

    Raises:
        UnsupportedModelError: it is of another kind; the message has the architecture's name.
        ModelLoadError: it does not say what it is.
    """
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(architecture, str) for architecture in architectures):
        raise ModelLoadError(f"{name}: architectures is {architectures!r} in {CONFIG}; it must be a list of names.")
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise ModelLoadError(f"{name}: {CONFIG} has no model_type, such as 'llama', so it is not known what it is.")
    if trusts_code and brings_code(config):
        return
    what = architectures[0] if architectures else f"model of the type {config['model_type']!r}"
    parts = [seen for part, seen in PARTS.items() if config.get(part)]
    if config.get("is_encoder_decoder") is True:
        raise _refused(name, what, "an encoder-decoder model")
    if not architectures or any(architecture.endswith(CAUSAL_ENDINGS) for architecture in architectures):
        return
    if what.endswith("ForConditionalGeneration") and parts == ["images"]:
        return
    if brings_code(config):
        raise UnsupportedModelError(how_to_trust(name))
    if what.endswith("ForConditionalGeneration") and parts:
        raise _refused(name, what, f"a model for {' and '.join(parts)}, which are not served yet")
    if what.endswith("ForConditionalGeneration"):
        raise _refused(name, what, "an encoder-decoder model or one for more than text")
    raise _refused(name, what, next((kind for end, kind in KINDS if what.endswith(end)), "no causal language model"))


def read_config(source: str | Path, name: str, *, trusts_code: bool = False) -> Any:
    """The configuration of a folder or of a hub model, as transformers understands it.

    Args:
        source: a folder, or ``owner/name``.
        name: the model's, for messages.
        trusts_code: whether code that comes with it may be run; in a folder, where `check_code` has looked at it.

    Raises:
        UnsupportedModelError: it is not a decoder with attention, or brings code of its own.
        ModelLoadError: it is damaged, or has numbers that no model can have.
    """
    import_heavy(MODEL_CLASSES)
    import transformers

    if Path(source).is_dir():
        check_architecture(read_json(Path(source) / CONFIG), name, trusts_code=trusts_code)
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trusts_code)
    except Exception as exc:  # whatever its values make transformers raise
        raise _explain(name, exc) from exc
    if not Path(source).is_dir():
        check_architecture(config.to_dict(), name)
    try:
        if not (trusts_code and brings_code(vars(config))):
            _check_class(config, name)
        _check_numbers(config.get_text_config(), name)
    except LlmApiKitError:
        raise
    except Exception as exc:
        raise _explain(name, exc) from exc
    return config


def is_vision_model(config: Any) -> bool:
    """Whether a configuration of transformers is of a model for images and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return hasattr(config, "vision_config") and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def auto_class(config: Any) -> Any:
    """The class of transformers that makes a model of a configuration."""
    import transformers

    return transformers.AutoModelForImageTextToText if is_vision_model(config) else transformers.AutoModelForCausalLM


def context_limit(config: Any) -> int:
    """How many tokens a sequence may have; 0 where the model has no limit.

    Args:
        config: of the text model; a configuration of transformers, or one with the same names.
    """
    limits = (getattr(config, name, None) for name in LIMITS)
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), 0)


def constant_length(config: Any) -> int:
    """Up to how many tokens a sequence's length changes nothing in how its tokens are computed; 0 for any number.

    Beyond it are other factors of the rotary embedding, which are chosen for a whole forward pass, or a further chunk
    of attention in chunks. Sequences of several lengths can't stand in one pass then.

    Args:
        config: as for `context_limit`.
    """
    lengths = []
    for rope in _ropes(config):
        if rope.get("rope_type", rope.get("type")) in LENGTH_DEPENDENT_ROPES:
            original = rope.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            lengths.append(original or getattr(config, "max_position_embeddings", None))
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        lengths.append(getattr(config, "attention_chunk_size", None))
    return min((int(length) for length in lengths if length), default=0)


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """Parameters of the rotary embedding: one set, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [rope for rope in found.values() if isinstance(rope, Mapping)]
    return nested or [found]


def _refused(name: str, architecture: str, kind: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{name} can't be served: {architecture} is {kind}. {SERVED}")


def _explain(name: str, exc: Exception) -> LlmApiKitError:
    if "trust_remote_code" in str(exc):
        return UnsupportedModelError(how_to_trust(name))
    return ModelLoadError(f"{name}: {CONFIG} can't be used: {type(exc).__name__}: {exc}")


def _check_class(config: Any, name: str) -> None:
    """Raise unless transformers has a causal language model for a configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = f"model of the type {config.model_type!r}"
    if is_vision_model(config):
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refused(name, kind, "no causal language model")
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not cls.__name__.endswith(CAUSAL_ENDINGS):
        raise _refused(name, cls.__name__, "a model for more than text")
    # Families of encoders have a causal class too, for those few that were trained as decoders
    is_causal = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_causal:
        raise _refused(name, cls.__name__ if config.architectures else kind, "an encoder unless is_decoder is true")
    if config.model_type in NOT_SERVED:
        raise _refused(name, cls.__name__, NOT_SERVED[config.model_type])


def _check_numbers(config: Any, name: str) -> None:
    """Raise unless sizes are such that a model can have; those that a family calls otherwise are not looked at."""
    values = {
        key: value for key in (*POSITIVE, *OPTIONAL) if (value := _one_for_all_layers(config, key)) is not MISSING
    }
    for key, value in values.items():
        if value is None and key in OPTIONAL:
            continue
        if value == -1 and key == "max_position_embeddings":  # XLNet's way to say that it has none
            continue
        if type(value) is not int or not 0 < value < MAX_NUMBER:
            raise ModelLoadError(f"{name}: {key} is {str(value)[:80]} in {CONFIG}; it must be a whole number above 0.")
    heads, groups = values.get("num_attention_heads", 1), values.get("num_key_value_heads") or 1
    if heads % groups:
        raise ModelLoadError(
            f"{name}: {CONFIG} has {heads} attention heads and {groups} key-value heads, which do not divide them."
        )
    if values.get("head_dim") is None and values.get("hidden_size", heads) % heads:
        raise ModelLoadError(
            f"{name}: {CONFIG} has a hidden_size of {values['hidden_size']}, which its {heads} attention heads do not "
            "divide."
        )


def _one_for_all_layers(config: Any, key: str) -> Any:
    """A number of a configuration; `MISSING` where it has none, or another one for each layer."""
    try:
        value = getattr(config, key, MISSING)
    except Exception:  # transformers' own, where each layer has another
        return MISSING
    return MISSING if isinstance(value, list) and len(value) == getattr(config, "num_hidden_layers", 0) else value
