"""Loads a model over several processes, of which this one is the first: see `llmapi_kit.checkpoints.tensor_parallel`.

For a process of its own only, as that ends when one of the others does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.checkpoints.tensor_parallel import Shard, check_divisible
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, UnsupportedModelError
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.progress import report

if TYPE_CHECKING:
    from llmapi_kit.checkpoints.fit import SlotPlan
    from llmapi_kit.checkpoints.weights import LoadedModel
    from llmapi_kit.runners.base import Runner
    from llmapi_kit.runners.image_memory import ImageMemory

OPTION = "tensor_parallel"


@dataclass(frozen=True, slots=True)
class RankTask:
    """What a rank is to load.

    Attributes:
        spec: which model.
        settings: of its engine.
        options: of `load_model`.
        shard: which part of it.
    """

    spec: ModelSpec
    settings: Settings
    options: Mapping[str, Any]
    shard: Shard

    def load(self) -> LoadedModel:
        """Load the part; waits for the other ranks.

        Raises:
            LlmApiKitError: it can't be loaded.
        """
        from llmapi_kit.checkpoints.weights import load_model
        from llmapi_kit.loading.runner_choice import with_arithmetic

        device = rank_device(self.options.get("device"), self.shard)
        self.shard.join(device)
        options = {**self.options, "device": device, "lora": None}
        stall_s = self.settings.download_stall_s
        return with_arithmetic(
            load_model(self.spec, download_stall_s=stall_s, shard=self.shard, **options), self.settings
        )


class ParallelLoader(ModelLoader):
    """A `ModelLoader` whose model is divided; `options` has how many parts there are to be."""

    def load_weights(self) -> LoadedModel:
        """See `ModelLoader.load_weights`: this rank's part, while the others load theirs."""
        from llmapi_kit.runners.rank_processes import RankProcesses

        num_ranks = self.options[OPTION]
        options = {name: value for name, value in self.options.items() if name != OPTION}
        rank_device(options.get("device"), Shard(num_ranks - 1, num_ranks, ""))  # there are as many
        self._check_divisible(num_ranks)
        report(f"dividing the model over {num_ranks} processes")
        task = partial(_task, self.spec, self.settings, options, num_ranks)
        self._ranks = RankProcesses(num_ranks, task)
        with self._removing_folder_on_error():
            return task(0, self._ranks.folder).load()

    @contextmanager
    def _removing_folder_on_error(self) -> Iterator[None]:
        """This process is ended with the other ranks where it fails."""
        try:
            yield
        except UnsupportedModelError as exc:
            self._ranks.remove_folder()
            raise UnsupportedModelError(f"{exc} Load it without {OPTION}, if it fits.") from exc
        except BaseException:
            self._ranks.remove_folder()
            raise

    def _check_divisible(self, num_ranks: int) -> None:
        """Raise before anything is started, where that can be told."""
        from llmapi_kit.checkpoints.architecture import read_config

        if self.spec.path is not None:
            check_divisible(read_config(self.spec.path, self.spec.name), num_ranks, self.spec.name)

    def _free_memory(self, loaded: LoadedModel) -> int:
        """For keys and values of all ranks: what the rank with the least has, so many times.

        Ranks on a CPU have the same memory.
        """
        free: list[int] = [super()._free_memory(loaded), *self._ranks.heard()]
        return min(free) * (len(free) if loaded.device.startswith("cuda") else 1)

    def _make_runner(
        self, loaded: LoadedModel, plan: SlotPlan, settings: Settings, images: ImageMemory | None
    ) -> Runner:
        from llmapi_kit.runners.ranked_runner import RankedRunner

        self._ranks.tell("make", plan)
        with self._removing_folder_on_error():
            runner = super()._make_runner(loaded, plan, settings, images)
        self._ranks.remove_folder()  # the runner was tried
        return RankedRunner(runner, self._ranks)


def rank_device(device: str | None, shard: Shard) -> str:
    """Where a rank computes: on the GPU of its number, or all of them on the CPU.

    Raises:
        ConfigError: there are fewer GPUs than ranks.
    """
    import torch

    from llmapi_kit.checkpoints.device_choice import pick_device

    first = pick_device(device)
    if first == "cpu":
        return first
    number, count = int(first.partition(":")[2]) + shard.rank, torch.cuda.device_count()
    if number >= count:
        raise ConfigError(
            f"tensor_parallel={shard.num_ranks} needs as many GPUs from {first} on, and torch sees {count} here. Use "
            "fewer, or device='cpu'."
        )
    return f"cuda:{number}"


def _task(
    spec: ModelSpec, settings: Settings, options: Mapping[str, Any], num_ranks: int, rank: int, folder: str
) -> RankTask:
    return RankTask(spec, settings, options, Shard(rank, num_ranks, folder))
