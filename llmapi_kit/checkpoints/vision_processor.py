"""The processor of a model that sees, with what it needs for pictures only.

transformers has image processors on Pillow and numpy beside those on torchvision, but none for video. A processor for
both is made without its part for video where torchvision is missing.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import transformers
from transformers.utils.import_utils import is_torchvision_available

from llmapi_kit.errors import ModelLoadError

VIDEO = "video_processor"


def load_processor(source: str, name: str) -> Any:
    """The processor in a folder; no code that comes with it is run.

    Raises:
        ModelLoadError: it has none, a damaged one, or one that needs a package which is not installed.
    """
    try:
        processor = _load(source)
        image_token = processor.image_token
    except Exception as exc:  # whatever its files make transformers raise
        raise ModelLoadError(
            f"The image processor of {name} could not be loaded: {type(exc).__name__}: {exc}{_advice(exc)}"
        ) from exc
    if not image_token:
        raise ModelLoadError(f"The processor of {name} does not say which token stands for a picture.")
    return processor


def _load(source: str) -> Any:
    options: dict[str, Any] = {"trust_remote_code": False, "backend": "pil"}
    cls = None if is_torchvision_available() else _processor_class(source)
    if cls is None:
        return transformers.AutoProcessor.from_pretrained(source, **options)  # type: ignore[no-untyped-call]
    return pictures_only(cls).from_pretrained(source, **options)


def _processor_class(source: str) -> Any:
    """The class that a folder's files name, or that goes with its kind of model; None where neither does."""
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    for read in (
        transformers.ProcessorMixin.get_processor_dict,
        transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict,
    ):
        try:
            named = read(source)[0].get("processor_class")
        except OSError:  # no such file
            continue
        if named:
            return processor_class_from_name(named)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return PROCESSOR_MAPPING.get(type(config), None)


def pictures_only(cls: Any) -> Any:
    """A processor's class that does without torchvision, and so without its part for video.

    Args:
        cls: of transformers, which puts one in its place that can't be used where torchvision is missing.
    """
    family = cls.__module__.rpartition("processing_")[2]
    cls = getattr(_module(family), cls.__name__)
    if VIDEO not in cls.get_attributes():
        return cls
    code = cls.__init__.__code__
    options = code.co_varnames[1 : code.co_argcount]

    class PicturesOnly(cls, _NoVideo):  # type: ignore[misc]
        def __init__(self, *parts: Any, **options: Any) -> None:
            _do_without_num2words(cls)
            named = dict(zip(self.get_attributes(), parts, strict=True))
            super().__init__(**named, **{VIDEO: None}, **options)

        __init__.__signature__ = inspect.signature(cls.__init__)  # type: ignore[attr-defined]

        @classmethod
        def get_attributes(_) -> list[str]:  # noqa: N804 - `cls` is the class it stands for
            return [part for part in cls.get_attributes() if part != VIDEO]

        @staticmethod
        def validate_init_kwargs(processor_config: Any, valid_kwargs: Any) -> Any:
            return cls.validate_init_kwargs(processor_config, options)

    PicturesOnly.__name__ = cls.__name__  # which decides how its tokenizer is loaded
    return PicturesOnly


def _module(family: str) -> ModuleType:
    """A processor's module; where it takes from its family's image processor on torchvision, from that on Pillow."""
    package = f"transformers.models.{family}"
    name = f"{package}.processing_{family}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name != "torchvision":
            raise
    missing = f"{package}.image_processing_{family}"
    sys.modules[missing] = importlib.import_module(f"{package}.image_processing_pil_{family}")
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[missing]


class _NoVideo(transformers.ProcessorMixin):
    """Stands between a family's processor and transformers' own, which takes no part that is missing."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        options.pop(VIDEO, None)
        super().__init__(*(part for part in parts if part is not None), **options)  # type: ignore[no-untyped-call]


def _do_without_num2words(cls: Any) -> None:
    """SmolVLM's processor refuses to be made without a package that writes how many frames a video has."""
    module = sys.modules[cls.__module__]
    if getattr(module, "num2words", True) is None:
        module.num2words = str  # type: ignore[attr-defined]


def _advice(exc: Exception) -> str:
    text = str(exc).lower()
    if "torchvision" in text:
        return " It needs torchvision, of the version that goes with torch: pip install torchvision."
    if "timm" in text:
        return " It needs timm: pip install timm."
    return ""
