"""Is a folder an embedding model or a reranker, and what stands behind its encoder: pooling, layers, prompts.

Reads small JSON files only, of sentence-transformers, model2vec and transformers; free of torch, so that it is asked
before a load. Code that comes with a model is not run.

Source: sentence-transformers' ``modules.json`` and the configurations beside it; ``matryoshka_dimensions`` is vLLM's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from llmapi_kit.checkpoints.model_files import CONFIG, read_json
from llmapi_kit.errors import ConfigError, ModelLoadError, UnsupportedModelError

MODULES, PROMPTS, LENGTHS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
STATIC = "model2vec"
# Families that read a text in both directions. Their classes for classification with one label are rerankers
ENCODERS = frozenset(
    (
        *("albert", "bert", "big_bird", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra"),
        *("ernie", "esm", "eurobert", "flaubert", "fnet", "ibert", "longformer", "megatron-bert", "mobilebert"),
        *("modernbert", "mpnet", "mra", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm"),
        *("roformer", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "yoso"),
    )
)
PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
POOLING_MODES: tuple[str, ...] = get_args(PoolingMode)
OLDER_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Options of a chat template's call that are not variables of the template
NOT_FOR_TEMPLATES = frozenset(
    ("max_length", "padding", "restore_suffix", "return_dict", "return_tensors", "tokenize", "truncation")
)
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")


@dataclass(frozen=True, slots=True)
class Layer:
    """What a pooled vector goes through.

    Attributes:
        kind: a linear layer, a layer norm, or division by the length.
        folder: with its weights.
        activation: after a linear layer; a class of `torch.nn`.
        has_residual: whether the linear layer's input is added to its output.
    """

    kind: Literal["dense", "layer_norm", "normalize"]
    folder: Path
    activation: str = "Identity"
    has_residual: bool = False


@dataclass(frozen=True, slots=True)
class LogitScore:
    """How a decoder scores a pair of texts: by how likely it says one token after them, and not another.

    Attributes:
        true_id: the token that stands for a match.
        false_id: the one that stands for none; None where the first one's logit is the score.
        is_structured: whether the chat template gets contents as lists of parts, not as texts.
        template_options: variables that the chat template gets besides.
    """

    true_id: int
    false_id: int | None = None
    is_structured: bool = False
    template_options: Mapping[str, Any] = ()  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """An embedding model or a reranker, as its folder describes it.

    Attributes:
        kind: an encoder or decoder whose states are pooled, a table of word vectors, or a model that scores pairs.
        folder: with the weights and the tokenizer.
        pooling: how states become one vector; of several, the vectors stand one after the other.
        pools_prompt: whether a prompt's tokens are part of it.
        layers: what comes after it.
        max_length: in tokens; 0 where only the model knows.
        lowercases: whether texts are made lower case before they are tokenized.
        prompts: texts to put before an input, by name.
        default_prompt: the name of the one that is taken where a request names none; empty for none.
        dimensions: lengths that vectors can be cut to; empty where the model was not trained for it.
        activation: of a reranker's score; a class of `torch.nn`.
        logit_score: of a reranker that is a decoder with its output layer; None for a classifier of sequences.
    """

    kind: Literal["transformer", "static", "reranker"]
    folder: Path
    pooling: tuple[PoolingMode, ...] = ("mean",)
    pools_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    max_length: int = 0
    lowercases: bool = False
    prompts: Mapping[str, str] = ()  # type: ignore[assignment]
    default_prompt: str = ""
    dimensions: tuple[int, ...] = ()
    activation: str = "Identity"
    logit_score: LogitScore | None = None


def is_embedding_folder(folder: Path) -> bool:
    """Whether a folder can only be an embedding model or a reranker, by the names in it."""
    if (folder / MODULES).is_file():
        return True
    try:
        config = read_json(folder / CONFIG)
    except ModelLoadError:
        return False
    family, architecture = config.get("model_type"), _architecture(config)
    if family == STATIC:
        return True
    if family not in ENCODERS or config.get("is_decoder") is True or config.get("is_encoder_decoder") is True:
        return False
    is_reranker = architecture.endswith("ForSequenceClassification") and _num_labels(config) == 1
    is_bare = architecture.endswith("Model") and not architecture.endswith(("LMHeadModel", "EncoderModel"))
    return is_reranker or is_bare


def read_embedding_config(folder: Path, name: str, options: Mapping[str, Any]) -> EmbeddingConfig:
    """What a folder describes.

    Args:
        folder: of the model.
        name: the model's, for messages.
        options: ``pooling``, ``normalize``, ``prompts``, ``default_prompt_name`` and ``matryoshka_dimensions`` of
            `kit.load_embeddings`, which go before what the folder says.

    Raises:
        UnsupportedModelError: it has a part that is not known, or code of its own.
        ModelLoadError: a file is damaged.
        ConfigError: an option does not go with it.
    """
    read = _of_modules(folder, name) if (folder / MODULES).is_file() else _of_transformers(folder, name)
    config = _optional(read.folder / CONFIG)
    dimensions = config.get("matryoshka_dimensions") or ()
    read = replace(read, dimensions=tuple(sorted(_whole(each, name) for each in dimensions)))
    return _with_options(_with_prompts(read, _optional(folder / PROMPTS), name), options)


def _of_modules(folder: Path, name: str) -> EmbeddingConfig:
    """A folder of sentence-transformers."""
    modules = _list(folder / MODULES, name)
    first, *rest = modules
    kind = _kind(first, name)
    place = _inside(folder, first.get("path", ""), name)
    if kind == "StaticEmbedding":
        return _with_layers(EmbeddingConfig("static", place), folder, rest, name)
    if kind != "Transformer":
        raise UnsupportedModelError(f"{name} can't be served: it begins with {first['type']}, which is not known here.")
    lengths = _optional(place / LENGTHS)
    if rest and _kind(rest[0], name) == "LogitScore":
        return _of_logits(folder, place, lengths, rest, name)
    if _is_reranker(folder, place):
        return _of_transformers(place, name)
    _check_input(lengths, name)
    read = EmbeddingConfig(
        "transformer",
        place,
        max_length=_whole(lengths.get("max_seq_length") or 0, name),
        lowercases=lengths.get("do_lower_case") is True,
    )
    if not rest or _kind(rest[0], name) != "Pooling":
        raise UnsupportedModelError(f"{name} can't be served: {MODULES} has no Pooling after the Transformer.")
    pooling = read_json(_inside(folder, rest[0].get("path", ""), name) / CONFIG)
    read = replace(
        read, pooling=_pooling(_modes(pooling), name), pools_prompt=pooling.get("include_prompt") is not False
    )
    return _with_layers(read, folder, rest[1:], name)


def _of_logits(
    folder: Path, place: Path, lengths: Mapping[str, Any], modules: Sequence[Any], name: str
) -> EmbeddingConfig:
    """A decoder whose logits of two tokens are a pair's score."""
    ways, processing = lengths.get("modality_config") or {}, lengths.get("processing_kwargs") or {}
    unknown = [*modules[1:], *(key for key in processing if key != "chat_template")]
    if unknown or lengths.get("transformer_task") != "text-generation" or "message" not in ways:
        raise UnsupportedModelError(
            f"{name} can't be served: a reranker with LogitScore has a Transformer for text-generation before it, "
            f"which gets pairs through its chat template, and nothing else in {MODULES} and {LENGTHS}."
        )
    config = read_json(_inside(folder, modules[0].get("path", ""), name) / CONFIG)
    if config.get("module_input_name", "causal_logits") != "causal_logits":
        raise UnsupportedModelError(f"{name} can't be served: its LogitScore reads {config['module_input_name']!r}.")
    false_id = config.get("false_token_id")
    message, options = ways["message"] or {}, processing.get("chat_template") or {}
    is_known = message.get("format", "flat") in ("flat", "structured") and not set(options) & NOT_FOR_TEMPLATES
    if not is_known:
        raise UnsupportedModelError(f"{name} can't be served: {LENGTHS} has a form of messages that is not known.")
    score = LogitScore(
        _whole(config.get("true_token_id"), name),
        None if false_id is None else _whole(false_id, name),
        message.get("format") == "structured",
        dict(options),
    )
    named = _optional(folder / PROMPTS).get("activation_fn") or "torch.nn.modules.activation.Sigmoid"
    limit = _whole(lengths.get("max_seq_length") or 0, name)
    activation = _activation(named, name)
    return EmbeddingConfig("reranker", place, max_length=limit, activation=activation, logit_score=score)


def _check_input(config: Mapping[str, Any], name: str) -> None:
    """Raise where texts get to the model in another way than as they are."""
    task, ways = config.get("transformer_task", "feature-extraction"), config.get("modality_config") or {}
    if task != "feature-extraction":
        raise UnsupportedModelError(f"{name} can't be served: its transformer_task is {task!r} in {LENGTHS}.")
    for part, what in {"message": "a chat template", "image": "images", "audio": "sound", "video": "video"}.items():
        if part in ways:
            raise UnsupportedModelError(
                f"{name} can't be served: it takes its inputs through {what}, by the modality_config of {LENGTHS}. "
                "Texts as they are can be embedded: remove that entry where the model was made for them."
            )
    if config.get("processing_kwargs"):
        raise UnsupportedModelError(f"{name} can't be served: {LENGTHS} has processing_kwargs, which are not known.")


def _with_layers(read: EmbeddingConfig, folder: Path, modules: Sequence[Any], name: str) -> EmbeddingConfig:
    kinds: Mapping[str, Literal["dense", "layer_norm", "normalize"]] = {
        "Dense": "dense",
        "LayerNorm": "layer_norm",
        "Normalize": "normalize",
    }
    layers = []
    for module in modules:
        kind = _kind(module, name)
        if kind == "Dropout":  # which does nothing outside training
            continue
        if kind not in kinds:
            raise UnsupportedModelError(
                f"{name} can't be served: {MODULES} has {module['type']}. Known are Transformer, StaticEmbedding, "
                "Pooling, Dense, LayerNorm, Normalize and Dropout."
            )
        place = _inside(folder, module.get("path", ""), name)
        config = _optional(place / CONFIG)
        if any(
            config.get(key, "sentence_embedding") not in (None, "sentence_embedding")
            for key in config
            if "_name" in key
        ):
            raise UnsupportedModelError(f"{name} can't be served: its {kind} works on each token, not on the vector.")
        activation = _activation(config.get("activation_function"), name) if kind == "Dense" else "Identity"
        layers.append(Layer(kinds[kind], place, activation, config.get("use_residual") is True))
    return replace(read, layers=tuple(layers))


def _of_transformers(folder: Path, name: str) -> EmbeddingConfig:
    """A folder without `MODULES`."""
    config = read_json(folder / CONFIG)
    normalize = (Layer("normalize", folder),)
    if config.get("model_type") == STATIC:
        return EmbeddingConfig("static", folder, layers=normalize if config.get("normalize") is not False else ())
    architecture = _architecture(config)
    if architecture.endswith("ForSequenceClassification"):
        if _num_labels(config) != 1:
            raise UnsupportedModelError(
                f"{name} can't be served: {architecture} has {_num_labels(config)} labels, so it is a classifier. A "
                "reranker has one."
            )
        own = config.get("sentence_transformers") or {}
        named = own.get("activation_fn") if isinstance(own, Mapping) else None
        named = named or config.get("sbert_ce_default_activation_function") or "torch.nn.modules.activation.Sigmoid"
        return EmbeddingConfig("reranker", folder, activation=_activation(named, name))
    if config.get("is_encoder_decoder") is True:
        raise UnsupportedModelError(f"{name} can't be served: {architecture} is an encoder-decoder model.")
    reads_both_ways = config.get("model_type") in ENCODERS
    return EmbeddingConfig("transformer", folder, ("mean",) if reads_both_ways else ("lasttoken",), layers=normalize)


def _with_prompts(read: EmbeddingConfig, config: Mapping[str, Any], name: str) -> EmbeddingConfig:
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelLoadError(f"{name}: prompts in {PROMPTS} must be an object of texts.")
    return replace(read, prompts=dict(prompts), default_prompt=config.get("default_prompt_name") or "")


def _with_options(read: EmbeddingConfig, options: Mapping[str, Any]) -> EmbeddingConfig:
    pooling, normalize = options.get("pooling"), options.get("normalize")
    if read.kind != "transformer" and pooling is not None:
        raise ConfigError("pooling goes with models whose token states are pooled; this one has none.")
    if read.kind == "reranker" and normalize is not None:
        raise ConfigError("normalize goes with models that make vectors; this one scores pairs of texts.")
    if pooling is not None:
        read = replace(read, pooling=_pooling((pooling,), "pooling"))
    if normalize is not None:
        kept = tuple(layer for layer in read.layers if layer.kind != "normalize")
        read = replace(read, layers=(*kept, Layer("normalize", read.folder)) if normalize else kept)
    if (prompts := options.get("prompts")) is not None:
        read = replace(read, prompts={**read.prompts, **prompts})
    if (default := options.get("default_prompt_name")) is not None:
        read = replace(read, default_prompt=default)
    if read.default_prompt and read.default_prompt not in read.prompts:
        raise ConfigError(
            f"default_prompt_name is {read.default_prompt!r}; the prompts are {', '.join(read.prompts) or 'none'}."
        )
    if (dimensions := options.get("matryoshka_dimensions")) is not None:
        read = replace(read, dimensions=tuple(sorted(dimensions)))
    return read


def check_embedding_options(options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless options have values that can be used."""
    pooling, prompts, dimensions = (options.get(name) for name in ("pooling", "prompts", "matryoshka_dimensions"))
    if pooling is not None and pooling not in POOLING_MODES:
        raise ConfigError(f"pooling={pooling!r} is not known. Use one of {', '.join(POOLING_MODES)}.")
    if options.get("normalize") not in (None, True, False):
        raise ConfigError(f"normalize={options['normalize']!r} is not known. Use True or False.")
    if prompts is not None and not (
        isinstance(prompts, Mapping) and all(isinstance(part, str) for pair in prompts.items() for part in pair)
    ):
        raise ConfigError(f"prompts={prompts!r} is not known. Use a dictionary such as {{'query': 'query: '}}.")
    if not isinstance(options.get("default_prompt_name") or "", str):
        raise ConfigError("default_prompt_name is the name of one of the prompts.")
    is_list = isinstance(dimensions, list | tuple) and all(type(each) is int and each > 0 for each in dimensions)
    if dimensions is not None and not is_list:
        raise ConfigError(f"matryoshka_dimensions={dimensions!r} is not known. Use a list such as [64, 128, 256].")


def _kind(module: Any, name: str) -> str:
    """The class of a module; its path has changed from version to version."""
    kind = module.get("type") if isinstance(module, Mapping) else None
    if not isinstance(kind, str):
        raise ModelLoadError(f"{name}: {MODULES} has an entry without type.")
    if not kind.startswith("sentence_transformers."):
        raise UnsupportedModelError(f"{name} brings code of its own ({kind}), which the kit does not run.")
    return kind.rpartition(".")[2]


def _modes(config: Mapping[str, Any]) -> tuple[Any, ...]:
    if (mode := config.get("pooling_mode")) is not None:
        return tuple(mode) if isinstance(mode, list) else (mode,)
    return tuple(mode for key, mode in OLDER_NAMES.items() if config.get(key) is True) or ("mean",)


def _pooling(modes: Sequence[Any], name: str) -> tuple[PoolingMode, ...]:
    for mode in modes:
        if mode not in POOLING_MODES:
            raise UnsupportedModelError(f"{name}: pooling {mode!r} is not known; known are {', '.join(POOLING_MODES)}.")
    return tuple(cast(PoolingMode, mode) for mode in modes)


def _activation(named: Any, name: str) -> str:
    if named is None:
        return "Tanh"
    kind = str(named).rpartition(".")[2]
    if not str(named).startswith("torch.nn.") or kind not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{name}: the activation {named!r} is not known; known are {', '.join(ACTIVATIONS)}."
        )
    return kind


def _architecture(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def _num_labels(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else int(config.get("num_labels") or 2)


def _is_reranker(folder: Path, place: Path) -> bool:
    is_cross = _optional(folder / PROMPTS).get("model_type") == "CrossEncoder"
    return is_cross or _architecture(_optional(place / CONFIG)).endswith("ForSequenceClassification")


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _list(path: Path, name: str) -> list[Any]:
    """The modules of a folder, of which there is at least one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelLoadError(f"{path} can't be read: {exc}. Download the file again.") from exc
    if not isinstance(found, list) or not found:
        raise ModelLoadError(f"{name}: {MODULES} must be a list of modules.")
    return found


def _inside(folder: Path, part: Any, name: str) -> Path:
    """A folder within another."""
    place = (folder / str(part)).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ModelLoadError(f"{name}: {MODULES} names {part!r}, which is not in the model's folder.")
    return folder / str(part)


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ModelLoadError(f"{name}: {str(value)[:80]} must be a whole number.")
    return value
