"""The number formats that `decoder.c` can be compiled for, and the macros that say so.

Knows nothing of models. What is not listed here is computed by torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llmapi_kit.checkpoints.integer_weights import IntegerFormat

# Macros for what weights, keys and values are stored as
WEIGHTS: dict[torch.dtype, tuple[str, ...]] = {
    torch.float32: (),
    torch.bfloat16: ("WEIGHTS_BFLOAT16",),
    torch.float16: ("WEIGHTS_FLOAT16",),
}
ARITHMETIC = (torch.float32, torch.bfloat16)
MEMORY: dict[torch.dtype, tuple[str, ...]] = {
    torch.float32: (),
    torch.bfloat16: ("MEMORY_BFLOAT16",),
    torch.int8: ("MEMORY_INT8",),
}


@dataclass(frozen=True, slots=True)
class Formats:
    """The number formats of a step.

    Attributes:
        weights: of the matrices.
        arithmetic: float32, or bfloat16, in which products with weights in bfloat16 round their inputs where the
            processor has instructions for it; all else, and sums, is in float32.
        memory: of keys and values; None for that of arithmetic.
    """

    weights: torch.dtype | IntegerFormat
    arithmetic: torch.dtype
    memory: torch.dtype | None = None

    @property
    def stored(self) -> torch.dtype:
        """Of keys and values."""
        return self.memory or self.arithmetic

    def macros(self) -> tuple[str, ...] | None:
        """What to compile with; None where there is no step for these."""
        if self.arithmetic not in ARITHMETIC or self.stored not in MEMORY:
            return None
        memory = MEMORY[self.stored]
        if isinstance(self.weights, IntegerFormat):
            minima = ("HAS_MINIMA",) if self.weights.has_minima else ()
            return (f"WEIGHT_BITS={self.weights.bits}", f"GROUP={self.weights.group}", *minima, *memory)
        if self.weights not in WEIGHTS or (self.weights != torch.bfloat16 and self.arithmetic != torch.float32):
            return None
        rounds = ("ROUNDS_TO_BFLOAT16",) if self.arithmetic == torch.bfloat16 else ()
        return (*WEIGHTS[self.weights], *memory, *rounds)
