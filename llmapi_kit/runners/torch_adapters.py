"""LoRA adapters beside the weights of a model that runs in torch, for rows of a step that have different ones, or none.

The adapters' factors of a product lie one after the other: all rows are multiplied with all of them, and what is
another adapter's is put to 0 between the two. Three operations a product, whatever the number of adapters; the
arithmetic grows with the sum of their ranks. DoRA scales a product's outputs as well, each row by its adapter's own
factors. Parameters that an adapter brings as a whole are computed with for its rows alone. Knows products and rows,
nothing of requests. Engine thread only.

Source: Chen et al. 2023 (Punica) for adapters of many requests in one batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from llmapi_kit.checkpoints.decoder_families import EMBEDDING, HEAD
from llmapi_kit.checkpoints.low_rank import Changes, LowRank, Replacement
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.adapter_places import Place, check_places, check_replacements, fused_places, module_places
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.lean_decoder import LeanDecoder


@dataclass(frozen=True, slots=True)
class _Part:
    """What an adapter changes of a product.

    Attributes:
        adapter: whose it is.
        place: in the product.
        change: what is added; with DoRA multiplied already by what the sum is.
        gain: (outputs,) by how much of themselves the model's own outputs grow, with DoRA.
    """

    adapter: int
    place: Place
    change: LowRank
    gain: torch.Tensor | None = None


class _Stack:
    """All adapters' factors of one product.

    Args:
        parts: of the product, at least one.
        bias: (width,) of the product, which DoRA does not scale.
        like: of the type and on the device that they are computed with.
    """

    def __init__(self, parts: Sequence[_Part], bias: torch.Tensor | None, like: torch.Tensor) -> None:
        width = parts[0].place.width
        self.down = torch.cat([part.change.down for part in parts]).to(like)
        self.offset = torch.cat([part.change.offset for part in parts]).to(like)
        self.owners = tuple(part.adapter for part in parts for _ in range(part.change.rank))
        self.up = like.new_zeros(width, len(self.owners))
        column = 0
        for part in parts:
            first, rank = part.place.first, part.change.rank
            self.up[first : first + part.place.outputs, column : column + rank] = part.change.up
            column += rank
        self.scaling = tuple(dict.fromkeys(part.adapter for part in parts if part.gain is not None))
        self.gains = like.new_zeros(len(self.scaling), width)
        for part in parts:
            if part.gain is not None:
                row, first = self.scaling.index(part.adapter), part.place.first
                self.gains[row, first : first + part.place.outputs] = part.gain
        self.bias = bias

    def add_to(self, outputs: torch.Tensor, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Outputs (T, width) with what the rows' adapters add for inputs (T, inputs)."""
        inner = torch.addmm(self.offset, inputs, self.down.t()).mul_(mask)
        return torch.addmm(outputs, inner, self.up.t())

    def scale(self, outputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Outputs (T, width) of the model alone, as the rows' adapters scale them."""
        own = outputs if self.bias is None else outputs - self.bias
        return torch.addcmul(outputs, mask @ self.gains, own)


class TorchAdapters:
    """The adapters of one runner.

    Args:
        model: of transformers, whole: a causal language model.
        lean: what computes it; None where its modules do.
    """

    def __init__(self, model: Any, lean: LeanDecoder | None) -> None:
        self._name = type(model).__name__
        self._lean = lean
        self._places = _fused_places(model) if lean is not None else module_places(model)
        self._modules = {} if lean is not None else dict(model.named_modules())
        self._shapes = _replaceable(model, is_fused=lean is not None)
        self._like = torch.empty(0, device=model.device, dtype=model.dtype)
        self._parts: dict[int, list[_Part]] = {}
        self._replaced: dict[str, dict[int, torch.Tensor]] = {}  # parameter to each adapter's
        self._stacks: dict[Hashable, _Stack] = {}
        self._hooks: list[Any] = []
        self._rows: torch.Tensor | None = None  # of the step under way: each token's adapter
        self._wanted: torch.Tensor | None = None  # those whose logits are wanted
        self._masks: dict[tuple[int, ...], torch.Tensor] = {}

    def add(self, adapter: int, changes: Changes) -> None:
        """Compute with an adapter from now on.

        Raises:
            ModelLoadError: it was made for another model.
            UnsupportedModelError: it changes what can't be changed for some rows alone.
        """
        sums = {name: change for name, change in changes.items() if isinstance(change, LowRank)}
        whole = {name: change for name, change in changes.items() if isinstance(change, Replacement)}
        check_places(sums, self._places, self._name)
        check_replacements(whole, self._shapes, self._name)
        parts = [self._part(adapter, name, change) for name, change in sums.items()]
        self._stack({**self._parts, adapter: parts})
        for name, replacement in whole.items():
            self._replaced.setdefault(name, {})[adapter] = replacement.weight.to(self._like)
        self._hook_modules()

    def remove(self, adapter: int) -> None:
        """Let go of an adapter."""
        self._stack({each: parts for each, parts in self._parts.items() if each != adapter})
        for owners in self._replaced.values():
            owners.pop(adapter, None)
        self._hook_modules()

    @contextmanager
    def step(self, items: Sequence[StepItem], slots: torch.Tensor, wanted: torch.Tensor) -> Iterator[None]:
        """Compute a step whose tokens (T,) are of these slots, with the adapters of its items.

        Args:
            items: of the step.
            slots: (T,) of its tokens.
            wanted: indices of the tokens whose logits are wanted.
        """
        adapters = {item.slot: item.adapter for item in items}
        rows = [adapters[slot] for slot in slots.tolist()]
        self._rows, self._masks = torch.tensor(rows, device=self._like.device), {}
        self._wanted = self._rows[wanted]
        try:
            yield
        finally:
            self._rows = self._wanted = None

    def change(self, product: Hashable, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs (T, width) of a product of the step under way, with what the rows' adapters change of it."""
        stack = self._stacks.get(product)
        if stack is None:
            return outputs
        if stack.scaling:
            outputs = stack.scale(outputs, self._mask(stack.scaling))
        return stack.add_to(outputs, inputs, self._mask(stack.owners))

    def embed(self, ids: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """What stands for tokens (T,), (T, hidden), where the rows' adapters bring embeddings of their own."""
        for adapter, weight in self._replaced.get(EMBEDDING, {}).items():
            own = weight[ids.clamp(max=len(weight) - 1)]  # ids of pictures stand for no row
            embedded = torch.where((self._of_step(len(ids)) == adapter)[:, None], own, embedded)
        return embedded

    def output(self, states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocab) of hidden states (n, hidden), where the rows' adapters bring an output layer."""
        for adapter, weight in self._replaced.get(HEAD, {}).items():
            is_own = self._of_step(len(states)) == adapter
            if bool(is_own.any()):
                logits[is_own] = functional.linear(states[is_own], weight)
        return logits

    def _of_step(self, num_rows: int) -> torch.Tensor:
        """The adapters of all tokens of the step under way, or of those whose logits are wanted."""
        if self._rows is None or self._wanted is None:
            raise RuntimeError("a row was changed outside a step")
        return self._rows if len(self._rows) == num_rows else self._wanted

    def _mask(self, owners: tuple[int, ...]) -> torch.Tensor:
        """(T, owners): 1 where a row has the adapter that a column belongs to."""
        if self._rows is None:
            raise RuntimeError("a product was changed outside a step")
        if owners not in self._masks:
            owner = torch.tensor(owners, device=self._rows.device)
            self._masks[owners] = (self._rows[:, None] == owner).to(self._like.dtype)
        return self._masks[owners]

    def _part(self, adapter: int, name: str, change: LowRank) -> _Part:
        place = self._places[name]
        if change.magnitude is None:
            return _Part(adapter, place, change)
        weight, _ = self._product(place.product)
        if not weight.is_floating_point():
            raise UnsupportedModelError(
                f"The adapter decomposes weights (DoRA), and those of {self._name} are kept in fewer bits. Load the "
                "model without quantize; or the adapter merged: kit.load(…, lora='…', served_name=…)."
            )
        own = weight[place.first : place.first + place.outputs].float()
        up, down = change.up.to(own.device), change.down.to(own.device)
        factor = change.magnitude.to(own.device) / torch.linalg.vector_norm(own + up @ down, dim=1)
        scaled = LowRank(change.down, change.offset, up * factor[:, None])
        return _Part(adapter, place, scaled, factor - 1)

    def _product(self, product: Hashable) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight (outputs, inputs) and bias of a product."""
        if self._lean is not None and isinstance(product, tuple):
            return self._lean.product(product)
        module = self._modules[str(product)]
        weight = module.weight.detach()
        return (weight.t() if isinstance(module, Conv1D) else weight), module.bias

    def _stack(self, adapters: dict[int, list[_Part]]) -> None:
        together: dict[Hashable, list[_Part]] = {}
        for parts in adapters.values():
            for part in parts:
                together.setdefault(part.place.product, []).append(part)
        stacks = {key: _Stack(parts, self._product(key)[1], self._like) for key, parts in together.items()}
        self._parts, self._stacks = adapters, stacks

    def _hook_modules(self) -> None:
        """Have modules that compute for themselves ask for what adapters change."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._lean is not None:
            return
        for name in {parameter.rpartition(".")[0] for parameter, owners in self._replaced.items() if owners}:
            self._hooks.append(self._modules[name].register_forward_hook(self._replace_hook(name)))
        names = [name for name in self._stacks if isinstance(name, str)]
        self._hooks += [self._modules[name].register_forward_hook(self._hook(name)) for name in names]

    def _hook(self, name: str) -> Any:
        def change(module: Any, arguments: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            if self._rows is None:
                return None
            inputs = arguments[0]
            changed = self.change(name, inputs.flatten(0, -2), outputs.flatten(0, -2))
            return changed.view_as(outputs)

        return change

    def _replace_hook(self, name: str) -> Any:
        """Computes a module anew for the rows whose adapters bring parameters of it."""

        def replace(module: Any, arguments: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            if self._rows is None:
                return None
            inputs = arguments[0].flatten(0, -2) if arguments[0].is_floating_point() else arguments[0].flatten()
            changed = outputs.flatten(0, -2).clone()
            own: dict[int, dict[str, torch.Tensor]] = {}
            for parameter, owners in self._replaced.items():
                owner, _, leaf = parameter.rpartition(".")
                for adapter, weight in owners.items() if owner == name else ():
                    own.setdefault(adapter, {})[leaf] = weight
            rows, before = self._of_step(len(inputs)), self._rows
            self._rows = None  # the module is to compute as it is
            try:
                for adapter, parameters in own.items():
                    is_own = rows == adapter
                    changed[is_own] = functional_call(module, parameters, (inputs[is_own],))
            finally:
                self._rows = before
            return changed.view_as(outputs)

        return replace


def _replaceable(model: Any, *, is_fused: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that can be others for some rows: of embeddings, norms and the output layer."""
    if is_fused:
        return {EMBEDDING: tuple(model.model.embed_tokens.weight.shape), HEAD: tuple(model.lm_head.weight.shape)}
    head, hidden = model.get_output_embeddings(), model.config.get_text_config().hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_norm = "Norm" in type(module).__name__ and weight is not None and tuple(weight.shape) == (hidden,)
        if is_norm or isinstance(module, torch.nn.Embedding) or module is head:
            shapes |= {f"{name}.{leaf}": tuple(each.shape) for leaf, each in module.named_parameters(recurse=False)}
    return shapes


def _fused_places(model: Any) -> dict[str, Place]:
    layers = model.model.layers
    sizes = {
        name: (module.out_features, module.in_features)
        for name, module in layers[0].named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return fused_places([sizes] * len(layers))
