"""What ``llmapi-kit serve`` was told, in the words of `kit.load` and `kit.launch`.

Several flags say the same thing, as those of an older demo are understood too; what contradicts itself is refused by
name. Loads nothing and imports no torch.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.known_names import DEFAULT_MODEL
from llmapi_kit.cli.model_environment import environment_model
from llmapi_kit.config import KEY_VARIABLE
from llmapi_kit.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_KEY_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeFlags:
    """The flags, as they were given; None, False or empty where they were not.

    Attributes:
        models: names on the command line.
        base_model: another way to give the name.
        lora: an adapter to be merged; or several, ``name=path`` each, to be served beside the model.
        tokenizer: in place of the model's.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
        gpus: a GPU's number, or several: a replica on each, or parts of the model with `tensor_parallel`.
        only_cpu: the same as the device ``cpu``.
        dtype: of the weights.
        quantize: ``int8``, ``int4``, ``8bit`` or ``4bit``.
        load_in_8bit: the same.
        name: that clients use.
        aliases: ``name=model`` each.
        default: the model that answers where none is named.
        max_slots: requests at once.
        context_length: most tokens of a request.
        num_threads: CPU threads of a step.
        process: whether each model has a process of its own.
        replicas: processes of each model; or, with `cluster`, how many of it there are always.
        cluster: a Ray cluster to run the models in.
        max_replicas: with `cluster`, how many of each model there are under load.
        tensor_parallel: processes that each model is divided over.
        revision: of a hub model.
        subfolder: of a hub model.
        trust_remote_code: refused, but for what to do instead.
        draft: how to guess what an answer goes on with, or the model that does.
        draft_tokens: most tokens that are guessed at once.
        gguf: options of `kit.load` for GGUF files; None as a value where nothing was said.
        api_key: refused, but for what to do instead.
        api_key_file: that holds the key.
    """

    models: Sequence[str] = ()
    base_model: str | None = None
    lora: Sequence[str] = ()
    tokenizer: str | None = None
    device: str | None = None
    gpus: str | None = None
    only_cpu: bool = False
    dtype: str | None = None
    quantize: str | None = None
    load_in_8bit: bool = False
    name: str | None = None
    aliases: Sequence[str] = ()
    default: str | None = None
    max_slots: int | None = None
    context_length: int | None = None
    num_threads: int | None = None
    process: bool = False
    replicas: int | None = None
    cluster: str | None = None
    max_replicas: int | None = None
    tensor_parallel: int | None = None
    revision: str | None = None
    subfolder: str | None = None
    trust_remote_code: bool = False
    draft: str | None = None
    draft_tokens: int | None = None
    gguf: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The same, understood.

    Attributes:
        models: names for `kit.load`.
        load: its other arguments.
        launch: further arguments of `kit.launch`.
        api_key: the key to ask for; None for a random one.
        cluster: those of them that say that models run in a cluster; empty where they don't.
    """

    models: Sequence[str]
    load: Mapping[str, Any]
    launch: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    cluster: Mapping[str, Any] = field(default_factory=dict)


def read_flags(flags: ServeFlags, environ: Mapping[str, str] | None = None) -> ServeOptions:
    """Turn flags into arguments. With no model among them the environment may name one; else it is the pocket model.

    Args:
        flags: as given.
        environ: the environment; None for this process's.

    Raises:
        ConfigError: flags that contradict each other, or can't be followed; the message names them.
    """
    if flags.base_model is not None and flags.models:
        raise ConfigError(
            f"--base_model {flags.base_model} and {flags.models[0]!r} both name the model; leave one out."
        )
    if flags.trust_remote_code:
        raise ConfigError(
            "--trust-remote-code is not taken: whether a model's code runs as you is said in Python, where it can be "
            "read first: kit.load(…, trust_remote_code=True, revision=…)."
        )
    models = [flags.base_model] if flags.base_model is not None else list(flags.models)
    if len(set(models)) < len(models):
        raise ConfigError(f"A model is named twice: {', '.join(models)}.")
    given = {
        **_place(flags),
        "dtype": flags.dtype,
        "lora": _lora(flags.lora),
        "tokenizer": flags.tokenizer,
        "quantize": _quantize(flags),
        "served_name": flags.name,
        "max_slots": flags.max_slots,
        "context_length": flags.context_length,
        "num_threads": flags.num_threads,
        "process": flags.process or None,
        "replicas": flags.replicas if flags.cluster is None else None,
        "tensor_parallel": flags.tensor_parallel,
        "revision": flags.revision,
        "subfolder": flags.subfolder,
        "draft": flags.draft,
        "draft_tokens": flags.draft_tokens,
        **flags.gguf,
    }
    load = {key: value for key, value in given.items() if value is not None}
    if len(models) > 1:
        single = {"lora": "--lora", "tokenizer": "--tokenizer", "quantize": "--quantize", "served_name": "--name"}
        single |= {"mmproj": "--mmproj", "revision": "--revision", "subfolder": "--subfolder"}
        for key, flag in single.items():
            if key in load:
                raise ConfigError(f"{flag} goes with one model, and {len(models)} are named: {', '.join(models)}.")
    if not models:
        found = environment_model(environ)
        models = [found.path if found else DEFAULT_MODEL]
        if found:
            load = {"served_name": found.served_name, **found.options, **load}
    launch = {"aliases": _aliases(flags.aliases), "default": flags.default}
    launch = {key: value for key, value in launch.items() if value}
    api_key = _api_key(flags, os.environ if environ is None else environ)
    return ServeOptions(models, load, launch, api_key, _cluster(flags))


def _place(flags: ServeFlags) -> dict[str, Any]:
    """Where to load, of the three ways to say it: a device, or several."""
    said = {"--device": flags.device, "--gpus": flags.gpus, "--only_cpu": flags.only_cpu or None}
    names = [name for name, value in said.items() if value is not None]
    if len(names) > 1 and not (names == ["--device", "--only_cpu"] and flags.device == "cpu"):
        raise ConfigError(f"{names[0]} and {names[1]} both say where to load the model; leave one out.")
    if flags.only_cpu:
        return {"device": "cpu"}
    if flags.gpus is None:
        return {"device": flags.device}
    numbers = [part.strip() for part in flags.gpus.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise ConfigError(f"--gpus is {flags.gpus!r}; it must be the number of a GPU, or several, such as 0,1.")
    devices = [f"cuda:{int(number)}" for number in numbers]
    return {"device": devices[0]} if len(devices) == 1 else {"devices": devices}


def _cluster(flags: ServeFlags) -> dict[str, Any]:
    """What `kit.launch` is told of a cluster."""
    if flags.cluster is None:
        if flags.max_replicas is not None:
            raise ConfigError("--max-replicas goes with --cluster: on one machine there are always --replicas.")
        return {}
    least = 1 if flags.replicas is None else flags.replicas
    most = least if flags.max_replicas is None else flags.max_replicas
    return {"cluster": flags.cluster, "replicas": {"min": least, "max": most}}


def _quantize(flags: ServeFlags) -> str | None:
    if not flags.load_in_8bit:
        return flags.quantize
    if flags.quantize not in (None, "8bit"):
        raise ConfigError(f"--load_in_8bit and --quantize {flags.quantize} contradict each other; leave one out.")
    if flags.only_cpu:
        raise ConfigError("--load_in_8bit needs a GPU, and --only_cpu forbids one. Leave one out.")
    return "8bit"


def _aliases(pairs: Sequence[str]) -> dict[str, str]:
    """``name=model`` each, as a mapping."""
    aliases: dict[str, str] = {}
    for pair in pairs:
        name, _, model = pair.partition("=")
        if not name or not model:
            raise ConfigError(f"--alias is {pair!r}; it must be name=model, such as gpt-4o=pocket.")
        if name in aliases:
            raise ConfigError(f"--alias names {name!r} twice.")
        aliases[name] = model
    return aliases


def _lora(values: Sequence[str]) -> str | dict[str, str] | None:
    """One adapter to merge, or several by name. A path with an equals sign in it that is there is a path."""
    if not values:
        return None
    named = [value for value in values if "=" in value and not Path(value).expanduser().exists()]
    if not named and len(values) == 1:
        return values[0]
    if len(named) < len(values):
        raise ConfigError(
            f"--lora is given {len(values)} times; then each must be name=path, such as sql=./sql-lora. One alone, "
            "without a name, is merged into the model."
        )
    adapters = {name: path for name, _, path in (value.partition("=") for value in named)}
    if len(adapters) < len(values):
        raise ConfigError("--lora names an adapter twice.")
    return adapters


def _api_key(flags: ServeFlags, environ: Mapping[str, str]) -> str | None:
    """The key, from where no other user of the machine reads it."""
    if flags.api_key is not None:
        raise ConfigError(
            "--api-key is not taken: every user of this machine can read a command line, and the shell keeps it. Set "
            f"{KEY_VARIABLE} in the environment, or put the key into a file of yours and pass --api-key-file FILE; "
            "without either, a random key is made."
        )
    if flags.api_key_file is not None:
        return read_key_file(flags.api_key_file)
    return environ.get(KEY_VARIABLE) or None


def read_key_file(path: Path) -> str:
    """The key in a file; line ends after it are not part of it. Warns where other users can read the file.

    Raises:
        ConfigError: there is none, or no file that can be read. The message does not contain the key.
    """
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except OSError as exc:
        raise ConfigError(f"The key file {path} can't be read: {exc.strerror or exc}.") from exc
    if len(content) > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"The key file {path} has more than {MAX_KEY_FILE_BYTES} bytes; it must hold the key only.")
    try:
        key = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"The key file {path} is not text; it must hold the key only.") from None
    if not key:
        raise ConfigError(f"The key file {path} is empty; it must hold the key.")
    if len(key.splitlines()) > 1:
        raise ConfigError(f"The key file {path} has several lines; it must hold the key only.")
    if os.name == "posix" and stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning("Every user of this machine can read the key file %s. Run: chmod 600 %s", path, path)
    return key
