"""What a model of transformers keeps of a sequence in its own modules, and every sequence has for itself.

Factors of rotary embeddings that grow with a sequence, and the states of a few recurrent models. With one sequence
after the other that goes unnoticed; by turns, each would go on from another one's. Knows nothing of slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

State = list[tuple[Any, str, Any]]  # module, attribute, value


class ModuleState:
    """Finds and swaps what a forward pass changes in a model's modules.

    Args:
        model: of transformers, as nothing has been computed with it yet.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._initial = _read(model)
        self._changing: set[tuple[int, str]] = {(id(module), name) for module, name, _ in self._initial if _grows(name)}
        self._has_any = any(_is_dynamic(module) for module in model.modules())

    def find(self) -> None:
        """Something was computed: from now on, what that has changed belongs to a sequence."""
        initial = {(id(module), name): value for module, name, value in self._initial}
        for module, name, value in _read(self._model):
            if initial.get((id(module), name), value) is not value:
                self._changing.add((id(module), name))
                self._has_any = True

    @contextlib.contextmanager
    def swapped_in(self, state: State | None) -> Iterator[State]:
        """Let the model compute with the state of a sequence, None for one that begins.

        Yields:
            A list that holds what became of it, afterwards.
        """
        after: State = []
        if not self._has_any:
            yield after
            return
        for module, name, value in self._initial if state is None else state:
            if (id(module), name) in self._changing:
                setattr(module, name, value)
        yield after
        after.extend(entry for entry in _read(self._model) if (id(entry[0]), entry[1]) in self._changing)


def _read(model: Any) -> State:
    """All tensors in modules but parameters, and what is empty and may become one."""
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False))
        if value is None or isinstance(value, torch.Tensor) or _grows(name)
    ]


def _is_dynamic(module: Any) -> bool:
    kinds = getattr(module, "rope_type", None)
    kinds = kinds.values() if isinstance(kinds, dict) else (kinds,)
    return any(isinstance(kind, str) and "dynamic" in kind for kind in kinds)


def _grows(name: str) -> bool:
    """Whether an attribute has this name in a rotary embedding that grows."""
    return name.endswith(("max_seq_len_cached", "inv_freq", "attention_scaling"))
