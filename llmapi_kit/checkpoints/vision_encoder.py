"""The vision encoder of a model that sees: from a picture to what stands for it in a prompt.

A model for pictures and text is a vision tower, a projector and a decoder. The decoder becomes a causal language model
of its own, see `llmapi_kit.checkpoints.vision_decoder`; the rest stays here. Blocking: pictures are looked at in worker
threads, one at a time.

Source: transformers' `get_image_features`, `get_rope_index` and processors,
https://huggingface.co/docs/transformers/main/en/tasks/image_text_to_text.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from llmapi_kit.errors import InvalidRequestError, UnsupportedModelError
from llmapi_kit.images.decode import Picture

# What a picture is at most on each side where little detail is asked for, as OpenAI has it
LOW_SIDE = 512
# Options of image processors that cut a picture into tiles
TILING = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")

# By the kind of model. For another kind, what a runner makes of a picture is compared with what the model makes of it
TRIED = frozenset(
    (
        *("gemma3", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3"),
        *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"),
    )
)
REFUSED = {"paligemma": "all tokens of its prompt attend to each other both ways, text too"}
TRIAL_SIZE = (64, 48)


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A picture that was not looked at yet.

    Attributes:
        text: what stands for it in a prompt, with `VisionEncoder.vector_token` once for each run of vectors.
        runs: how many vectors each run has.
        inputs: of the model, by name.
    """

    text: str
    runs: tuple[int, ...]
    inputs: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as the decoder takes it.

    Attributes:
        text: see `PreparedPicture`.
        runs: see `PreparedPicture`.
        features: (n, hidden_size), in place of embeddings.
        deeper: (layers, n, hidden_size), added to the states after each of the first layers; None where nothing is.
        positions: (3, n) where positions have three dimensions, counted from the position of the first; else None.
        advance: how much further the position of what follows is than that of the first vector; with `positions`.
        spans: what llama.cpp tells of each run, `llmapi_kit.runners.image_chunk.ImageSpan`; empty for other runners.
    """

    text: str
    runs: tuple[int, ...]
    features: torch.Tensor
    deeper: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    advance: int = 0
    spans: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """A prompt with a picture, and what the model makes of it by itself.

    Attributes:
        ids: with `VisionEncoder.vector_token_id` for each vector.
        seen: the picture.
        logits: (1, vocab) after the prompt.
    """

    ids: list[int]
    seen: EncodedPicture
    logits: torch.Tensor


class VisionEncoder:
    """Looks at pictures, as one model does.

    Args:
        model: a model for images and text of transformers, in evaluation mode.
        processor: its processor.

    Attributes:
        image_token: what the chat template writes for a picture.
        vector_token: what stands for one vector in the text that takes its place.
        vector_token_id: its id.
        is_bidirectional: whether the vectors of a run attend to each other both ways.
        is_spatial: whether positions have three dimensions.
        trial: for a family that is not `TRIED`: what a runner has to compute, too, before it is used.

    Raises:
        UnsupportedModelError: the model has no vectors that stand for pictures among tokens.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        kind = type(model).__name__
        if _method(model, "get_image_features") is None:
            raise UnsupportedModelError(
                f"{kind} can't be served: what it sees does not stand among its tokens; its layers attend to it apart."
            )
        if getattr(model.config, "image_token_id", None) is None:
            raise UnsupportedModelError(f"{kind} can't be served: it has no token that stands for a part of a picture.")
        if reason := REFUSED.get(model.config.model_type):
            raise UnsupportedModelError(f"{kind} can't be served: {reason}.")
        self._model = model
        self._processor = processor
        self._lock = threading.Lock()
        self._image_features = _method(model, "get_image_features")
        self._inputs = _parameters(model, "get_image_features")
        self._rope_index = _method(model, "get_rope_index")
        self.is_spatial = self._rope_index is not None
        self.image_token = str(processor.image_token)
        self.vector_token_id = int(model.config.image_token_id)
        self.vector_token = str(processor.tokenizer.convert_ids_to_tokens(self.vector_token_id))
        self._run = re.compile(f"(?:{re.escape(self.vector_token)})+")
        self.is_bidirectional = (
            "token_type_ids" in inspect.signature(model.forward).parameters
            or getattr(model.config.get_text_config(), "use_bidirectional_attention", None) == "vision"
        )
        self._tiling = [name for name in TILING if hasattr(processor.image_processor, name)]
        self._written: list[str] = []
        self._note_what_is_written()
        self.trial = None if model.config.model_type in TRIED else self._try_out()

    def prepare(self, picture: Picture, param: str, *, is_low: bool = False) -> PreparedPicture:
        """What stands for a picture in a prompt, and what the model will be given.

        Args:
            picture: any.
            param: where it stands in the request, for messages.
            is_low: of at most `LOW_SIDE` pixels on each side, and without tiles where the processor can do without.

        Raises:
            InvalidRequestError: the model can't take a picture of this shape.
        """
        pixels = picture.pixels
        options: dict[str, Any] = {}
        if is_low:
            pixels = pixels.copy()
            pixels.thumbnail((LOW_SIDE, LOW_SIDE))
            options = dict.fromkeys(self._tiling, False)
        with self._lock:
            try:
                inputs = self._process(self.image_token, pixels, **options)
            except (ValueError, ZeroDivisionError, RuntimeError) as exc:
                width, height = picture.size
                raise InvalidRequestError(
                    f"{param} has {width:,} x {height:,} pixels, which this model can't take: {exc}.", param=param
                ) from exc
            return self._prepared(inputs)

    @torch.inference_mode()
    def encode(self, prepared: PreparedPicture) -> EncodedPicture:
        """The vectors of a picture.

        Raises:
            UnsupportedModelError: they are not as many as the tokens that stand for them.
        """
        inputs = {name: value for name, value in prepared.inputs.items() if name in self._inputs}
        with self._lock:
            moved = {name: _to(value, self._model.device) for name, value in inputs.items()}
            if isinstance(pixels := moved.get("pixel_values"), torch.Tensor):
                moved["pixel_values"] = pixels.to(self._model.dtype)
            found = self._image_features(**moved, return_dict=True)
        features = _joined(found.pooler_output)
        if sum(prepared.runs) != len(features):
            raise UnsupportedModelError(
                f"{type(self._model).__name__} makes {len(features)} vectors of a picture and writes "
                f"{sum(prepared.runs)} tokens for them, so they can't be placed."
            )
        deeper = getattr(found, "deepstack_features", None)
        positions, advance = self._positions(prepared)
        return EncodedPicture(
            prepared.text,
            prepared.runs,
            features,
            None if deeper is None else torch.stack([_joined(layer) for layer in deeper]),
            positions,
            advance,
        )

    def _try_out(self) -> Trial:
        try:
            return self._make_trial()
        except UnsupportedModelError:
            raise
        except Exception as exc:  # whatever a family that nobody tried makes of it
            raise UnsupportedModelError(
                f"{type(self._model).__name__} can't be served: a first picture failed: {type(exc).__name__}: {exc}"
            ) from exc

    @torch.inference_mode()
    def _make_trial(self) -> Trial:
        """A small picture between some words, through the whole model."""
        from PIL import Image

        pixels = Image.effect_noise(TRIAL_SIZE, 90).convert("RGB")
        self._check_text(f"{self.image_token}what{self.image_token}{self.image_token}\n", pixels)
        inputs = self._process(f"one {self.image_token} two three", pixels)
        prepared = self._prepared(inputs)
        seen = self.encode(prepared)
        taken = {*inspect.signature(self._model.forward).parameters, *self._inputs}
        given = {name: _to(value, self._model.device) for name, value in inputs.items() if name in taken}
        given["pixel_values"] = given["pixel_values"].to(self._model.dtype)
        logits = self._model(**given, use_cache=False).logits[:, -1]
        return Trial(inputs["input_ids"][0].tolist(), seen, logits.clone())

    def _check_text(self, text: str, pixels: Any) -> None:
        """Raise unless what the processor writes for a picture is the same wherever it stands."""
        whole = self._process(text, *[pixels] * text.count(self.image_token))
        self._process(self.image_token, pixels)
        written = text.replace(self.image_token, self._written[0] if self._written else self.image_token)
        ids = self._processor.tokenizer(written, add_special_tokens=False)["input_ids"]
        if whole["input_ids"][0].tolist() != ids:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} can't be served: what its processor writes for a picture depends on "
                "the text beside it."
            )

    def _prepared(self, inputs: dict[str, Any]) -> PreparedPicture:
        written = self._written[0] if self._written else self._decode(inputs["input_ids"][0])
        runs = tuple(len(run.group()) // len(self.vector_token) for run in self._run.finditer(written))
        return PreparedPicture(self._run.sub(lambda _: self.vector_token, written), runs, inputs)

    def _process(self, text: str, *pictures: Any, **options: Any) -> dict[str, Any]:
        self._written.clear()
        options |= {"add_special_tokens": False, "return_tensors": "pt"}
        return dict(self._processor(text=[text], images=list(pictures), **options))

    def _note_what_is_written(self) -> None:
        """Have the processor tell what it writes for a picture: tokenized beside other text, it may be other tokens."""
        write: Any = getattr(self._processor, "get_text_with_replacements", None)

        def noting(text: Any, images_replacements: Sequence[str] = (), *others: Any, **named: Any) -> Any:
            self._written[:] = images_replacements
            return write(text, images_replacements, *others, **named)

        if write is not None:
            self._processor.get_text_with_replacements = noting

    def _decode(self, ids: Any) -> str:
        return str(self._processor.tokenizer.decode(ids, skip_special_tokens=False))

    def _positions(self, prepared: PreparedPicture) -> tuple[torch.Tensor | None, int]:
        """The positions of a picture's vectors where they have three dimensions, as the model counts them."""
        if self._rope_index is None:
            return None, 0
        if len(prepared.runs) != 1:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} counts positions in three dimensions, in pictures of several parts."
            )
        (count,) = prepared.runs
        taken = inspect.signature(self._rope_index).parameters
        ids = torch.full((1, count + 2), self.vector_token_id)
        ids[0, 0] = ids[0, -1] = 0 if self.vector_token_id else 1
        kinds = (ids == self.vector_token_id).int()
        given = {
            **prepared.inputs,
            "input_ids": ids,
            "mm_token_type_ids": kinds,
            "attention_mask": torch.ones_like(ids),
        }
        found = self._rope_index(**{name: value for name, value in given.items() if name in taken})[0][:, 0]
        first = found[0, 0] + 1
        return (found[:, 1:-1] - first).contiguous(), int(found[0, -1] - first)


def _method(model: Any, name: str) -> Any:
    return getattr(model, name, None) or getattr(getattr(model, "model", None), name, None)


def _parameters(model: Any, name: str) -> frozenset[str]:
    """What a method takes, of the model or of the one in it, to which the outer one may pass all on."""
    owners = [owner for owner in (model, getattr(model, "model", None)) if hasattr(owner, name)]
    return frozenset(each for owner in owners for each in inspect.signature(getattr(owner, name)).parameters)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _joined(found: Any) -> torch.Tensor:
    """(n, hidden_size) of a tensor, or of one for each part of the picture."""
    parts = [found] if isinstance(found, torch.Tensor) else list(found)
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
