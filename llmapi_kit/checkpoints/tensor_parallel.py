"""A model that is divided over several processes: whether it can be, and what a process does to load its part.

Each of these processes, a *rank*, holds a part of every large matrix and some of the attention heads, and all compute
the same steps; transformers knows how to divide which family (``tp_plan``), and torch adds the parts up. Knows nothing
of who starts the processes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ConfigError, UnsupportedModelError

MAX_RANKS = 64
# Families whose plan in transformers divides them into something else, as tools/parallel_table.py finds out
OTHER_ANSWERS = ("hrm_text",)
# A rank may wait for another one to read its weights; one that is gone is noticed at once, by whoever started it
MAX_WAIT = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a model a process has.

    Attributes:
        rank: from 0.
        num_ranks: how many parts there are.
        folder: of the file through which the ranks find each other; readable by this user only.
    """

    rank: int
    num_ranks: int
    folder: str

    def join(self, device: str) -> None:
        """Meet the other ranks; waits for them.

        Args:
            device: of this rank: ``cpu``, or a GPU.
        """
        import torch
        from torch import distributed

        local = torch.device(device).index or 0
        os.environ.update(RANK=str(self.rank), WORLD_SIZE=str(self.num_ranks), LOCAL_RANK=str(local))
        # Neither asks who connects
        interface = "lo" if sys.platform == "linux" else "lo0"
        os.environ.update(GLOO_SOCKET_IFNAME=interface, NCCL_SOCKET_IFNAME=interface)
        meeting_point = str(Path(self.folder) / "ranks")
        store = distributed.FileStore(meeting_point, self.num_ranks)  # type: ignore[attr-defined]
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(local)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.num_ranks,
            timeout=MAX_WAIT,
            device_id=torch.device(device) if on_gpu else None,
        )

    def arguments(self, config: Any, name: str) -> dict[str, Any]:
        """Arguments of `from_pretrained` that load this part only.

        Args:
            config: of the model.
            name: of the model, for messages.

        Raises:
            UnsupportedModelError: it can't be divided by so many.
            ConfigError: transformers is too old for it.
        """
        check_divisible(config, self.num_ranks, name)
        try:
            from transformers.distributed import DistributedConfig  # type: ignore[attr-defined]
        except ImportError as exc:
            raise ConfigError("tensor_parallel needs a newer transformers: pip install -U transformers.") from exc
        return {"distributed_config": DistributedConfig(tp_size=self.num_ranks, tp_plan="auto")}


def check_tensor_parallel(given: Any) -> None:
    """Raise `ConfigError` unless a model can be asked to be divided over so many processes."""
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_RANKS:
        raise ConfigError(f"tensor_parallel is {given!r}; it must be a number from 1 to {MAX_RANKS}.")


def check_divisible(config: Any, num_ranks: int, name: str) -> None:
    """Raise `UnsupportedModelError` unless a model can be divided by so many.

    Args:
        config: of transformers, of the model.
        num_ranks: how many parts.
        name: of the model, for messages.
    """
    text = config.get_text_config()
    if text is not config:
        raise UnsupportedModelError(f"{name} sees pictures, so tensor_parallel can't divide it. Leave it out.")
    if not getattr(config, "base_model_tp_plan", None):
        raise UnsupportedModelError(
            f"transformers has no plan to divide models of the family {config.model_type!r}, which {name} belongs to, "
            "so tensor_parallel can't be used. Leave it out, or use device_map."
        )
    if config.model_type in OTHER_ANSWERS:
        raise UnsupportedModelError(f"{name}: divided by transformers' plan, it gives other answers. Leave it out.")
    if getattr(config, "quantization_config", None):
        raise UnsupportedModelError(f"{name} has quantized weights, which tensor_parallel can't divide. Leave it out.")
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    for what, number in (("attention heads", heads), ("key-value heads", kv_heads)):
        if number % num_ranks:
            fitting = [each for each in range(1, number + 1) if not number % each and not heads % each]
            raise UnsupportedModelError(
                f"{name} has {number} {what}, which {num_ranks} processes can't share evenly. tensor_parallel may be "
                f"{' or '.join(map(str, fitting))}."
            )
