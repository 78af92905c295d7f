"""The eye of a model that sees: from a picture to tokens and vectors, and the decoder behind it taken apart.

A model for pictures and text is a vision tower, a projector and a decoder. The decoder becomes a causal language model
of its own, which every runner knows; the rest stays here. Blocking: pictures are looked at in worker threads, one at
a time.

Source: transformers' `get_image_features` and processors, https://huggingface.co/docs/transformers/main/en/tasks/image_text_to_text.
"""

from __future__ import annotations

import inspect
import threading
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from llmapi_kit.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from llmapi_kit.images.decode import Picture

DECODERS = ("language_model", "text_model")


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as the model takes it.

    Attributes:
        ids: its tokens in a prompt.
        features: (n, hidden_size), one for each `Eye.image_token_id` among the ids.
    """

    ids: list[int]
    features: torch.Tensor


class Eye:
    """Looks at pictures, as one model does.

    Args:
        model: a model for images and text of transformers, in evaluation mode.
        processor: its processor.

    Attributes:
        image_token: what the chat template writes for a picture.
        image_token_id: the token that stands for one vector of a picture.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        self._lock = threading.Lock()
        self._inputs = frozenset(inspect.signature(model.get_image_features).parameters)
        self.image_token = str(processor.image_token)
        self.image_token_id = int(model.config.image_token_id)

    @torch.inference_mode()
    def look(self, picture: Picture, param: str) -> Seen:
        """Tokens and vectors of a picture.

        Raises:
            InvalidRequestError: the model can't take a picture of this shape.
        """
        with self._lock:
            try:
                prepared = self._processor(
                    text=[self.image_token], images=[picture.pixels], add_special_tokens=False, return_tensors="pt"
                )
            except (ValueError, ZeroDivisionError, RuntimeError) as exc:
                width, height = picture.size
                raise InvalidRequestError(
                    f"{param} has {width:,} x {height:,} pixels, which this model can't take: {exc}.", param=param
                ) from exc
            inputs = {name: value.to(self._model.device) for name, value in prepared.items() if name in self._inputs}
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
            found = self._model.get_image_features(**inputs, return_dict=True).pooler_output
        parts = [found] if isinstance(found, torch.Tensor) else list(found)
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        ids = prepared["input_ids"][0].tolist()
        if ids.count(self.image_token_id) != len(features):
            raise UnsupportedModelError(
                f"{type(self._model).__name__} makes {len(features)} vectors of a picture and writes "
                f"{ids.count(self.image_token_id)} tokens for them, so they can't be placed."
            )
        return Seen(ids, features)


def take_apart(model: Any, name: str) -> Any:
    """The decoder of a model for images and text, as a causal language model that shares its weights.

    Args:
        model: of transformers, with its weights.
        name: the model's, for messages.

    Raises:
        UnsupportedModelError: its decoder has no causal language model of its own, or attends to pictures in a way
            that a causal one does not.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = type(model).__name__
    config = model.config.get_text_config()
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(
            f"{name} can't be served: the decoder of {kind} ({type(config).__name__}) is none that stands by itself, "
            "such as one with positions in three dimensions."
        )
    if (
        getattr(config, "use_bidirectional_attention", None)
        or "token_type_ids" in inspect.signature(model.forward).parameters
    ):
        raise UnsupportedModelError(
            f"{name} can't be served: in {kind} the parts of a picture attend to each other both ways, which is not "
            "possible here."
        )
    inner = next((getattr(model.model, part) for part in DECODERS if hasattr(model.model, part)), None)
    if inner is None or not hasattr(model, "lm_head"):
        raise UnsupportedModelError(f"{name} can't be served: {kind} has no decoder that is known here.")
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        decoder = cls(config)
    setattr(decoder, decoder.base_model_prefix, inner)
    decoder.lm_head = model.lm_head
    decoder.config.tie_word_embeddings = model.config.tie_word_embeddings
    decoder.generation_config = model.generation_config
    return decoder.eval()


def load_processor(source: str, name: str) -> Any:
    """The processor in a folder; no code that comes with it is run.

    Raises:
        ModelLoadError: it has none, or a damaged one.
    """
    try:
        processor: Any = transformers.AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            source, trust_remote_code=False, backend="pil"
        )
        image_token = processor.image_token
    except Exception as exc:  # whatever its files make transformers raise
        needed = (
            " It needs torchvision, of the version that goes with torch." if "torchvision" in str(exc).lower() else ""
        )
        raise ModelLoadError(
            f"The image processor of {name} could not be loaded: {type(exc).__name__}: {exc}{needed}"
        ) from exc
    if not image_token:
        raise ModelLoadError(f"The processor of {name} does not say which token stands for a picture.")
    return processor
