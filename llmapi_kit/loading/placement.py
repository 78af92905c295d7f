"""Where a model's engine runs: in this process, in one of its own, or in several that share its requests."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.checkpoints.spec import ModelSpec
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.process.engine import STEP_TIMEOUT_S, ProcessEngine
from llmapi_kit.engines.replicas import ReplicatedEngine
from llmapi_kit.errors import ConfigError

OPTIONS = ("process", "replicas", "devices")
MAX_REPLICAS = 64

EngineMaker = Callable[[Mapping[str, Any]], Engine]


@dataclass(frozen=True, slots=True)
class Placement:
    """See the module.

    Attributes:
        devices: of each process's engine, None where the model's own option says it; empty for this process. Of a model
            that is divided, `num_ranks` for each engine.
        num_ranks: processes that each engine's model is divided over.
    """

    devices: Sequence[str | None] = ()
    num_ranks: int = 1

    def make(
        self, make_engine: EngineMaker, options: Mapping[str, Any], name: str, step_timeout_s: float = STEP_TIMEOUT_S
    ) -> Engine:
        """The engine.

        Args:
            make_engine: makes one here, of a source's options; picklable where processes are asked for.
            options: of the model's source.
            name: of the model, for messages.
            step_timeout_s: see `ProcessEngine`.

        Raises:
            LlmApiKitError: one could not be made; the others are closed.
        """
        if not self.devices:
            return make_engine(options)
        make_one = partial(self._process, make_engine, options, name, step_timeout_s)
        groups = [self.devices[at : at + self.num_ranks] for at in range(0, len(self.devices), self.num_ranks)]
        if len(groups) == 1:
            return make_one(groups[0])
        with ThreadPoolExecutor(len(groups)) as pool:
            started = [pool.submit(contextvars.copy_context().run, make_one, group) for group in groups]
        failed = [each.exception() for each in started if each.exception() is not None]
        if failed:
            for each in started:
                if each.exception() is None:
                    each.result().close()
            raise failed[0] or RuntimeError
        return ReplicatedEngine([each.result() for each in started])

    def need(self, one: MemoryNeed) -> MemoryNeed:
        """What memory all of them take together, where they share it.

        Args:
            one: of one engine.
        """
        num = 1 if any(self.devices) else max(1, len(self.devices) // self.num_ranks)
        num_cards = self.num_ranks if one.device.startswith("cuda") else 1
        return replace(
            one,
            least_bytes=num * one.least_bytes // num_cards,
            wanted_bytes=num * one.wanted_bytes // num_cards,
            most_bytes=num * one.most_bytes // num_cards,
        )

    def _process(
        self,
        make_engine: EngineMaker,
        options: Mapping[str, Any],
        name: str,
        step_timeout_s: float,
        devices: Sequence[str | None],
    ) -> ProcessEngine:
        named = [device for device in devices if device is not None]
        environment = {}
        if len(self.devices) > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(self.devices)))
        if self.num_ranks > 1 and (named or options.get("device") == "cpu"):
            environment["CUDA_VISIBLE_DEVICES"] = visible(named)
        elif named:
            options = {**options, "device": named[0]}
        return ProcessEngine(
            partial(make_engine, options), name=name, environment=environment, step_timeout_s=step_timeout_s
        )


HERE = Placement()


def read_placement(values: Mapping[str, Any], spec: ModelSpec) -> Placement:
    """What a load was told of it.

    Args:
        values: all that it was told.
        spec: what is to be loaded.

    Raises:
        ConfigError: a value can't be used, or the model is not computed on this machine.
    """
    given = {name: values[name] for name in OPTIONS if values.get(name) is not None}
    has_process = given.get("process")
    if has_process is not None and not isinstance(has_process, bool):
        raise ConfigError(f"process is {has_process!r}; it must be True or False.")
    devices = _devices(given["devices"]) if "devices" in given else None
    num = _num_replicas(given["replicas"]) if "replicas" in given else None
    num_ranks = values.get("tensor_parallel") or 1
    asks = has_process or devices or num
    if asks and spec.kind == "upstream":
        raise ConfigError(f"{spec.name!r} is computed elsewhere, so {next(iter(given))} has no effect. Leave it out.")
    if has_process is False and (devices or num):
        raise ConfigError("process=False does not go with replicas and devices, which are processes. Leave it out.")
    if devices is not None and values.get("device") is not None:
        raise ConfigError("device and devices both say where to load the model. Leave one out.")
    if num_ranks != 1:
        return _parallel(devices, num, num_ranks, has_process)
    if devices is not None and num not in (None, len(devices)):
        raise ConfigError(f"replicas is {num}, and devices names {len(devices)}. Leave one of the two out.")
    if devices is not None:
        return Placement(devices)
    return Placement((None,) * (num or int(bool(has_process))))


def _parallel(devices: Sequence[str] | None, num: int | None, num_ranks: int, has_process: bool | None) -> Placement:
    """Of a model that is divided, several times where there are replicas."""
    if has_process is False:
        raise ConfigError("process=False does not go with tensor_parallel, which takes processes. Leave it out.")
    if devices is None:
        return Placement((None,) * num_ranks * (num or 1), num_ranks)
    if len(devices) % num_ranks or num not in (None, len(devices) // num_ranks):
        raise ConfigError(
            f"devices names {len(devices)}, and tensor_parallel={num_ranks} takes {num_ranks} for each of "
            f"{num or 'the'} replicas. Name as many, or leave devices out."
        )
    if not all(device.startswith("cuda:") for device in devices) or len(set(devices)) < len(devices):
        raise ConfigError(f"devices is {list(devices)!r}; tensor_parallel takes different GPUs, such as [0, 1].")
    return Placement(devices, num_ranks)


def visible(devices: Sequence[str]) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for a process to see these GPUs of this process and no others."""
    ours = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    numbers = [int(device.partition(":")[2]) for device in devices]
    return ",".join(ours[number] if number < len(ours) else str(number) for number in numbers)


def _num_replicas(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_REPLICAS:
        raise ConfigError(f"replicas is {given!r}; it must be a number from 1 to {MAX_REPLICAS}.")
    return given


def _devices(given: Any) -> tuple[str, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or not given:
        raise ConfigError(f"devices is {given!r}; it must be a list of GPUs, such as [0, 1].")
    devices = []
    for each in given:
        if isinstance(each, bool) or not isinstance(each, int | str) or (isinstance(each, int) and each < 0):
            raise ConfigError(f"devices has {each!r}; it takes numbers of GPUs, and names such as 'cuda:0' or 'cpu'.")
        devices.append(f"cuda:{each}" if isinstance(each, int) else each)
    if len(devices) > MAX_REPLICAS:
        raise ConfigError(f"devices names {len(devices)}; there may be {MAX_REPLICAS}.")
    return tuple(devices)
