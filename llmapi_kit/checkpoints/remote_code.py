"""Code that comes with a model, for those who say that they trust it: what there is, and that it is all in its folder.

With ``trust_remote_code=True`` transformers imports Python files of the model, which can do whatever this process can.
So it is asked for in Python only, by whoever runs the notebook, and for files that can't change unseen: a folder, or
one commit of a model on the hub. Reads small files; runs nothing, and is free of torch.

Source: https://huggingface.co/docs/transformers/custom_models for ``auto_map``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmapi_kit.checkpoints.hub_cache import COMMIT
from llmapi_kit.checkpoints.model_files import CONFIG, read_json
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.errors import ConfigError, ModelLoadError, UnsupportedModelError

logger = logging.getLogger(__name__)

CODE_FILES = ("*.py",)
AUTO_CLASS = "AutoModelForCausalLM"
OTHER_REPOSITORY = "--"  # between its name and a class of it
_TOKENIZER_CONFIG = "tokenizer_config.json"


def check_trust(trust: Any, revision: Any, spec: ModelSpec) -> None:
    """Raise `ConfigError` unless a model's code may be run, where that is asked for.

    Args:
        trust: the option.
        revision: of the model; None for its main branch.
        spec: which model.
    """
    if trust is None or trust is False:
        return
    if trust is not True:
        raise ConfigError(f"trust_remote_code={trust!r} is not known; it must be True or False.")
    if spec.kind == "hub" and not COMMIT.fullmatch(str(revision or "")):
        raise ConfigError(
            f"trust_remote_code=True runs Python code of {spec.name} as you. Read the code, and pass the commit that "
            "you have read as revision, all 40 digits of it; a branch or a tag may be something else tomorrow."
        )


def brings_code(config: Mapping[str, Any]) -> bool:
    """Whether a configuration names a causal language model among the files beside it."""
    names = config.get("auto_map")
    return isinstance(names, Mapping) and AUTO_CLASS in names


def check_code(folder: Path, name: str) -> list[str]:
    """Raise unless all code that a model names is in its folder; returns its files.

    Args:
        folder: with the model's files.
        name: the model's, for messages.

    Raises:
        UnsupportedModelError: it names code of another repository, whose version nobody has chosen.
        ModelLoadError: a file of code is missing.
    """
    files = sorted(set(code_files(folder, name)))
    for file in files:
        if not (folder / file).is_file():
            raise ModelLoadError(f"{name} names code in {file}, which is not among its files.")
    return files


def warn_of_code(name: str, files: Sequence[str]) -> None:
    """Say that files of code are about to run."""
    if files:
        logger.warning(
            "%s brings code of its own, which trust_remote_code=True runs in this process: %s. It can read, change and "
            "send whatever you can.",
            name,
            ", ".join(files),
        )


def code_files(folder: Path, name: str) -> Iterator[str]:
    """Names of the files of code that a model's configuration and its tokenizer's name.

    Raises:
        UnsupportedModelError: one is of another repository.
    """
    for file in (CONFIG, _TOKENIZER_CONFIG):
        names = read_json(folder / file).get("auto_map") if (folder / file).is_file() else None
        for value in names.values() if isinstance(names, Mapping) else ():
            for reference in value if isinstance(value, list | tuple) else (value,):
                if reference is None:
                    continue
                module, _, rest = str(reference).partition(".")
                if OTHER_REPOSITORY in module or not rest.isidentifier() or not module.isidentifier():
                    raise UnsupportedModelError(
                        f"{name} takes code from elsewhere ({reference}), and not from the version that you chose. "
                        "Download both into one folder, name the class without the repository, and load the folder."
                    )
                yield f"{module}.py"


def how_to_trust(name: str) -> str:
    """The sentence for whoever loads a model with code without having asked for it to be run."""
    return (
        f"{name} brings code of its own, which is run only with trust_remote_code=True, an argument of kit.load() in "
        "Python; for a model of the hub together with revision, the full commit that you have read."
    )
