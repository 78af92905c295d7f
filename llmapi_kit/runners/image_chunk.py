"""What a picture is to a decoder, as libmtmd tells it: tokens of text, and vectors with the positions they stand at.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Vectors that stand beside each other.

    Attributes:
        num_vectors: how many.
        num_positions: by how much they move the position of what follows.
        is_causal: whether each sees only those before it; if not, all must be computed together.
        grid: (2, 4, n), the four dimensions of their positions behind a text that ends before position 0, and before
            position 1; None where positions are plain numbers.
    """

    num_vectors: int
    num_positions: int
    is_causal: bool = True
    grid: npt.NDArray[np.int32] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all must be computed in one step."""
        return not self.is_causal or self.grid is not None

    def positions(self, start: int) -> npt.NDArray[np.int32] | None:
        """(4, n), where the vectors stand behind a text that ends before `start`; None as for `grid`."""
        return None if self.grid is None else self.grid[0] + start * (self.grid[1] - self.grid[0])


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A picture.

    Attributes:
        parts: tokens of text and vectors, in their order.
        vectors: (n, width), those of all spans.
    """

    parts: Sequence[Sequence[int] | ImageSpan]
    vectors: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorItem:
    """Consecutive vectors of one slot to compute in a step, in place of tokens.

    Attributes:
        slot: whose KV memory is read and written.
        start: position of the first; what the slot holds from there on is given up.
        end: position of what follows.
        vectors: (n, width).
        positions: (4, n) where they have several dimensions, else None.
        is_causal: whether each sees only those before it.
        wants_logits: whether the logits after the last one are needed.
        adapter: as of `StepItem`.
    """

    slot: int
    start: int
    end: int
    vectors: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int32] | None = None
    is_causal: bool = True
    wants_logits: bool = False
    adapter: int = 0
