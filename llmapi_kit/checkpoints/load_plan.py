"""What the options of a load come to on this machine, and whether the model fits then.

Reads configurations and sizes, no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmapi_kit.checkpoints.device_choice import LOADED_AS, pick_device, pick_dtype, pick_quantization
from llmapi_kit.checkpoints.fit import Fit, check_folder
from llmapi_kit.checkpoints.integer_weights import ROUNDED, IntegerFormat
from llmapi_kit.checkpoints.load_options import check_kv_cache_dtype
from llmapi_kit.checkpoints.model_files import CONFIG, read_json
from llmapi_kit.checkpoints.remote_code import brings_code, check_code
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.checkpoints.tensor_parallel import Shard
from llmapi_kit.errors import LlmApiKitError, ModelTooLargeError, UnsupportedModelError

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.adapter_files import Adapter

# Whether there is a step in C for weights, arithmetic, and keys and values in some formats; None for that of arithmetic
HasNative = Callable[[torch.dtype | IntegerFormat, torch.dtype, torch.dtype | None], bool]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What the options of a load come to on this machine.

    Attributes:
        device: where the weights are to be.
        dtype: of arithmetic; ``auto`` for the model's own.
        quantize: as it was given.
        kv_cache_dtype: as it was given.
        quantization: arguments of `from_pretrained` that keep weights in fewer bits.
        device_map: as it was given.
        shard: as it was given.
        has_native: as it was given; None where a step in C is out of the question.
        keeps_bfloat16: whether weights that are stored in bfloat16 stay in it.
        trusts_code: whether code that comes with the model is run.
    """

    device: str
    dtype: torch.dtype | str
    quantize: str | None
    kv_cache_dtype: str | None
    quantization: Mapping[str, Any]
    device_map: str | Mapping[str, int | str] | None
    shard: Shard | None
    has_native: HasNative | None
    keeps_bfloat16: bool
    trusts_code: bool = False

    @property
    def integers(self) -> IntegerFormat | None:
        """What a step in C rounds the weights to."""
        return ROUNDED.get(self.quantize or "")

    @property
    def is_divided(self) -> bool:
        """See `LoadedModel.is_divided`."""
        return self.device_map is not None or self.shard is not None

    @property
    def num_gpus(self) -> int:
        """Over how many GPUs the model is divided; 1 where it is not."""
        if not self.is_divided or self.device == "cpu":
            return 1
        return self.shard.num_ranks if self.shard is not None else torch.cuda.device_count()

    def check_fit(self, folder: Path, **more: Any) -> Fit:
        """What a model takes, loaded this way; see `llmapi_kit.checkpoints.fit.check_folder`."""
        loaded_as = LOADED_AS.get(self.quantize, self.quantize) if self.quantize else None
        if loaded_as is None and self.dtype != "auto":
            loaded_as = name_of(self.dtype)
        stays = self.keeps_bfloat16 and self.integers is None
        return check_folder(folder, self.device, dtype=loaded_as, keeps_bfloat16=stays, **more)

    def placed(self, model: Any) -> Any:
        """A model on the device; one that is quantized or divided is in its place already."""
        return model if self.quantization or self.is_divided else model.to(self.device)

    def without_native(self, spec: ModelSpec, why: str) -> LlmApiKitError:
        """The error for options that need the compiled step where it can't be used; `why` completes "which …"."""
        given = f"quantize={self.quantize!r}" if self.quantize else f"kv_cache_dtype={self.kv_cache_dtype!r}"
        return UnsupportedModelError(
            f"{spec.id}: {given} is computed by the compiled step, which {why}. Leave it out, with dtype='bfloat16' to "
            "halve the memory; or load a GGUF file of the model."
        )


def plan_load(
    spec: ModelSpec,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    kv_cache_dtype: str | None,
    device_map: str | Mapping[str, int | str] | None,
    shard: Shard | None,
    has_native: HasNative | None,
) -> LoadPlan:
    """What options come to here; see `llmapi_kit.checkpoints.weights.load_model` for them and for the errors."""
    place = pick_device(device)
    plan = LoadPlan(
        place,
        pick_dtype(dtype, place),
        quantize,
        kv_cache_dtype,
        pick_quantization(quantize, place, spec),
        device_map,
        shard,
        has_native if place == "cpu" and device_map is None and shard is None else None,
        keeps_bfloat16=dtype is None and place == "cpu",
    )
    check_kv_cache_dtype(kv_cache_dtype, place)
    if plan.has_native is None and (plan.integers or kv_cache_dtype):
        raise plan.without_native(spec, "native=False, compile=True and own loaders do without")
    return plan


def check_before_download(spec: ModelSpec, plan: LoadPlan, folder: Path, weights_bytes: int) -> None:
    """Raise `ModelTooLargeError` for a model of the hub whose weights would not fit once they were here."""
    trusts_code = plan.trusts_code
    if trusts_code:
        check_code(folder, spec.name)
        trusts_code = brings_code(read_json(folder / CONFIG))
    unpacks = plan.has_native is None and plan.device == "cpu"
    fit = plan.check_fit(folder, weights_bytes=weights_bytes, trusts_code=trusts_code, unpacks=unpacks)
    if not fit.fits_on(plan.num_gpus):
        raise ModelTooLargeError(f"{spec.id} was not downloaded, as it would not fit. {fit.advice}")


def check_room(spec: ModelSpec, plan: LoadPlan, adapter: Adapter | None, num_rows: int, *, unpacks: bool) -> None:
    """Raise `ModelTooLargeError` unless the model fits, the adapter included, on so many GPUs like the first."""
    if spec.path is None:
        return
    added_bytes = adapter.size_bytes if adapter else 0
    options: dict[str, Any] = {"trusts_code": plan.trusts_code, "unpacks": unpacks and plan.device == "cpu"}
    fit = plan.check_fit(spec.path, num_rows=num_rows, added_bytes=added_bytes, **options)
    if not fit.fits_on(plan.num_gpus):
        raise ModelTooLargeError(f"{spec.id} does not fit. {fit.advice}")


def name_of(dtype: torch.dtype | str) -> str:
    """Such as ``float32``."""
    return str(dtype).removeprefix("torch.")
