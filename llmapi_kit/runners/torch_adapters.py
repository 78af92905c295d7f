"""LoRA adapters beside the weights of a model that runs in torch, for rows of a step that have different ones, or none.

The adapters' factors of a product lie one after the other: all rows are multiplied with all of them, and what is
another adapter's is put to 0 between the two. Three operations a product, whatever the number of adapters; the
arithmetic grows with the sum of their ranks. Knows products and rows, nothing of requests. Engine thread only.

Source: Chen et al. 2023 (Punica) for adapters of many requests in one batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llmapi_kit.checkpoints.low_rank import LowRank
from llmapi_kit.runners.adapter_places import Place, check_places, fused_places, module_places
from llmapi_kit.runners.base import StepItem


class _Stack:
    """All adapters' factors of one product.

    Args:
        place: of the product.
        changes: (adapter, its place, what it adds) each.
        like: of the type and on the device that they are computed with.
    """

    def __init__(self, width: int, changes: Sequence[tuple[int, Place, LowRank]], like: torch.Tensor) -> None:
        self.down = torch.cat([change.down for _, _, change in changes]).to(like)
        self.offset = torch.cat([change.offset for _, _, change in changes]).to(like)
        self.owners = tuple(adapter for adapter, _, change in changes for _ in range(len(change.down)))
        self.up = like.new_zeros(width, len(self.owners))
        column = 0
        for _, place, change in changes:
            rank = len(change.down)
            self.up[place.first : place.first + place.outputs, column : column + rank] = change.up
            column += rank

    def add_to(self, outputs: torch.Tensor, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Outputs (T, width) with what the rows' adapters add for inputs (T, inputs)."""
        inner = torch.addmm(self.offset, inputs, self.down.t()).mul_(mask)
        return torch.addmm(outputs, inner, self.up.t())


class TorchAdapters:
    """The adapters of one runner.

    Args:
        model: of transformers, whole: a causal language model.
        is_fused: whether `LeanDecoder` computes it; else its modules do.
    """

    def __init__(self, model: Any, *, is_fused: bool) -> None:
        self._name = type(model).__name__
        self._places = _fused_places(model) if is_fused else module_places(model)
        self._modules = {} if is_fused else dict(model.named_modules())
        self._like = torch.empty(0, device=model.device, dtype=model.dtype)
        self._changes: dict[int, Mapping[str, LowRank]] = {}
        self._stacks: dict[Hashable, _Stack] = {}
        self._hooks: list[Any] = []
        self._rows: torch.Tensor | None = None  # of the step under way: each token's adapter
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}

    def add(self, adapter: int, changes: Mapping[str, LowRank]) -> None:
        """Compute with an adapter from now on.

        Raises:
            ModelLoadError: it was made for another model.
        """
        check_places(changes, self._places, self._name)
        self._stack({**self._changes, adapter: changes})

    def remove(self, adapter: int) -> None:
        """Let go of an adapter."""
        self._stack({each: changes for each, changes in self._changes.items() if each != adapter})

    @contextmanager
    def step(self, items: Sequence[StepItem], slots: torch.Tensor) -> Iterator[None]:
        """Compute a step whose tokens (T,) are of these slots, with the adapters of its items."""
        adapters = {item.slot: item.adapter for item in items}
        rows = [adapters[slot] for slot in slots.tolist()]
        self._rows, self._masks = torch.tensor(rows, device=self._like.device), {}
        try:
            yield
        finally:
            self._rows = None

    def change(self, product: Hashable, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs (T, width) of a product of the step under way, with what the rows' adapters add to it."""
        stack = self._stacks.get(product)
        return outputs if stack is None else stack.add_to(outputs, inputs, self._mask(stack.owners))

    def _mask(self, owners: tuple[int, ...]) -> torch.Tensor:
        """(T, ranks): 1 where a row has the adapter that a rank belongs to."""
        if self._rows is None:
            raise RuntimeError("a product was changed outside a step")
        if owners not in self._masks:
            owner = torch.tensor(owners, device=self._rows.device)
            self._masks[owners] = (self._rows[:, None] == owner).to(self._like.dtype)
        return self._masks[owners]

    def _stack(self, adapters: dict[int, Mapping[str, LowRank]]) -> None:
        together: dict[Hashable, list[tuple[int, Place, LowRank]]] = {}
        for adapter, changes in adapters.items():
            for name, change in changes.items():
                place = self._places[name]
                together.setdefault(place.product, []).append((adapter, place, change))
        stacks = {key: _Stack(parts[0][1].width, parts, self._like) for key, parts in together.items()}
        self._changes, self._stacks = adapters, stacks
        for hook in self._hooks:
            hook.remove()
        names = [name for name in stacks if isinstance(name, str)]
        self._hooks = [self._modules[name].register_forward_hook(self._hook(name)) for name in names]

    def _hook(self, name: str) -> Any:
        def change(module: Any, arguments: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            if self._rows is None:
                return None
            inputs = arguments[0]
            changed = self.change(name, inputs.flatten(0, -2), outputs.flatten(0, -2))
            return changed.view_as(outputs)

        return change


def _fused_places(model: Any) -> dict[str, Place]:
    layers = model.model.layers
    sizes = {
        name: (module.out_features, module.in_features)
        for name, module in layers[0].named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return fused_places([sizes] * len(layers))
