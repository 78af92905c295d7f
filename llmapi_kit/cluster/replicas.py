"""How many replicas of a model there are to be, and what each takes. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmapi_kit.config import Settings
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.errors import ConfigError

MAX_REPLICAS = 1000
QUEUES_PER_SLOT, MAX_QUEUE = 4, 128  # as a model's own queue, see `Settings.max_queue`
NAMES = ("min", "max", "num_cpus", "num_gpus")
HELP = 'It is a number, or a dictionary such as {"min": 1, "max": 8, "num_gpus": 1}.'


@dataclass(frozen=True, slots=True)
class Replicas:
    """See the module.

    Attributes:
        least: that there are always.
        most: that there are under load.
        num_cpus: that a replica takes of its machine's.
        num_gpus: that a replica takes; None for one where the cluster has any and the model can use it.
    """

    least: int = 1
    most: int = 1
    num_cpus: float = 1
    num_gpus: float | None = None

    def num_ongoing(self, settings: Settings) -> int:
        """Requests that a replica is given at once: as many wait in it as run, so that no slot waits for the next one.

        All others wait before the replicas are told apart, and go to whichever is free first.
        """
        waiting = min(settings.max_slots, settings.max_queue or settings.max_slots)
        return settings.max_slots + waiting

    def most_requests(self, settings: Settings) -> int:
        """Requests that may run and wait in all; those above are refused."""
        waiting = settings.max_queue or min(QUEUES_PER_SLOT * settings.max_slots, MAX_QUEUE)
        return self.most * (self.num_ongoing(settings) + waiting)


def read_replicas(given: Any) -> Replicas:
    """What somebody wrote.

    Raises:
        ConfigError: it can't be followed.
    """
    if given is None:
        return Replicas()
    if not isinstance(given, Mapping):
        num = _count("replicas", given)
        return Replicas(num, num)
    for name in given:
        if name not in NAMES:
            raise ConfigError(f"replicas has {name!r}.{did_you_mean(str(name), NAMES)} {HELP}")
    least = _count('replicas["min"]', given.get("min", 1))
    most = _count('replicas["max"]', given.get("max", least))
    if most < least:
        raise ConfigError(f'replicas["max"] is {most}, less than replicas["min"], {least}.')
    num_gpus = given.get("num_gpus")
    return Replicas(
        least,
        most,
        _share('replicas["num_cpus"]', given.get("num_cpus", 1)),
        None if num_gpus is None else _share('replicas["num_gpus"]', num_gpus),
    )


def _count(name: str, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_REPLICAS:
        raise ConfigError(f"{name} is {given!r}; it must be a number from 1 to {MAX_REPLICAS}. {HELP}")
    return given


def _share(name: str, given: Any) -> float:
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 <= given <= 1024:
        raise ConfigError(f"{name} is {given!r}; it must be a number, 0 or more. {HELP}")
    return given
