"""Steps in which every slot decodes one token, at a few fixed batch sizes, so that they can be compiled and recorded.

Row i of the batch is slot i; the batch is as wide as the smallest size that holds the highest slot in use. Rows that
have nothing to decode compute on, write to a scratch slot behind the others, and are not read. With fixed shapes
`torch.compile` makes one program of the forward pass, and a CUDA graph replays it with one call, where an eager step
waits for Python hundreds of times.

Attention goes through torch's variable-length attention over paged memory, each slot one page, where the card and
torch have it; else through SDPA over a length that is rounded up to a power of two, with a mask. The CUDA parts have
not been run on a GPU yet; their logic is tested on a CPU, and `make gpu-check` runs them where there is one.

Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.attention.varlen.varlen_attn.html and
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional

from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.lean_decoder import LeanDecoder
from llmapi_kit.runners.slot_attention import KVMemory

logger = logging.getLogger(__name__)

# A slot is a page, and flash attention takes pages of whole multiples of it.
PAGE = 256
MIN_LENGTH = 64
MAX_HEAD_DIM = 256  # of flash attention, which takes multiples of 8
_recording = threading.Lock()  # one graph of a process can be recorded at a time
Forward = Callable[[torch.Tensor, int], torch.Tensor]


class BucketedDecoder:
    """Decodes through fixed shapes.

    Args:
        decoder: computes the forward pass.
        memory: with `num_slots` + 1 slots; the last is scratch.
        num_slots: without the scratch slot.
        compiler: `torch.compile`, or what stands for it; None for no compilation.
        is_recorded: whether steps become CUDA graphs.
        has_varlen: whether to use variable-length attention where it can be had; SDPA otherwise.
    """

    def __init__(
        self,
        decoder: LeanDecoder,
        memory: KVMemory,
        *,
        num_slots: int,
        compiler: Callable[[Forward], Forward] | None = None,
        is_recorded: bool = False,
        has_varlen: bool = True,
    ) -> None:
        self._decoder = decoder
        self._memory = memory
        self._scratch = num_slots
        self._sizes = bucket_sizes(num_slots)
        self._varlen = varlen_attention(memory.device, memory.dtype, decoder.head_dim) if has_varlen else None
        self._forward: Forward = self._compute
        if compiler is not None:
            self._compile(compiler)
        self._is_recorded = is_recorded
        self._recorded: dict[tuple[int, int], tuple[Any, torch.Tensor, torch.Tensor]] = {}
        self._pool: Any = None  # memory that all graphs share: each one's answer is copied before the next runs

    @property
    def attention(self) -> Literal["varlen", "sdpa"]:
        """What computes attention."""
        return "sdpa" if self._varlen is None else "varlen"

    @staticmethod
    def can_run(items: Sequence[StepItem]) -> bool:
        """Whether a step is decoding alone."""
        return all(len(item.tokens) == 1 and item.wants_logits and not item.wants_mean for item in items)

    @torch.inference_mode()
    def step(self, items: Sequence[StepItem]) -> torch.Tensor:
        """Logits (num_items, vocab), in the items' order."""
        highest = max(item.slot for item in items)
        size = next(size for size in self._sizes if size > highest)
        longest = 1 + max(item.start for item in items)
        length = self._bucket_length(longest)
        tokens, positions, slots = [0] * size, [0] * size, [self._scratch] * size
        for item in items:
            tokens[item.slot], positions[item.slot], slots[item.slot] = item.tokens[0], item.start, item.slot
        rows = torch.tensor([tokens, positions, slots])
        logits = (
            self._replay(rows, length) if self._is_recorded else self._forward(rows.to(self._memory.device), length)
        )
        return logits[[item.slot for item in items]]

    def _bucket_length(self, length: int) -> int:
        """The next power of two, to which attention with a mask is padded; 0 where it needs no padding."""
        return 0 if self._varlen else min(self._memory.max_length, max(MIN_LENGTH, 1 << (length - 1).bit_length()))

    def _replay(self, rows: torch.Tensor, length: int) -> torch.Tensor:
        """The recorded step of this shape; records it the first time."""
        shape = rows.shape[1], length
        if shape not in self._recorded:
            static = rows.to(self._memory.device)
            graph, logits = self._record(static, length)
            self._recorded[shape] = graph, static, logits
        graph, static, logits = self._recorded[shape]
        static.copy_(rows)
        graph.replay()
        return logits

    def _record(self, static: torch.Tensor, length: int) -> tuple[Any, torch.Tensor]:
        """A CUDA graph that reads `static` and writes the logits that are returned with it."""
        device = self._memory.device
        stream = _recording_stream(device)
        graph = torch.cuda.CUDAGraph()
        with _recording:
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):  # also makes `device` the current one, which on this thread may be another
                self._forward(static, length)  # allocates and chooses algorithms, which must not be recorded
                # In the mode "global", whatever allocates in another thread, such as a cell, would fail meanwhile
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    logits = self._forward(static, length)
            torch.cuda.current_stream(device).wait_stream(stream)
        self._pool = graph.pool()
        return graph, logits

    def _compile(self, compiler: Callable[[Forward], Forward]) -> None:
        """Compile the forward pass and run it, so that no request waits for it; without it where that fails."""
        compiled = compiler(self._compute)
        idle = torch.tensor([[0], [0], [self._scratch]], device=self._memory.device)
        length = self._bucket_length(1)
        sizes = (1, self._sizes[-1])[: len(self._sizes)]
        for number, size in enumerate(sizes, start=1):
            logger.warning("Compiling the decoding step, part %d of %d; kept for the next time", number, len(sizes))
            started = time.monotonic()
            try:
                with torch.inference_mode():
                    compiled(idle.repeat(1, size), length)
            except Exception as exc:
                logger.warning("compile=True does nothing here, steps run uncompiled: %s", _first_line(exc))
                return
            logger.warning("Compiled part %d in %.0f s", number, time.monotonic() - started)
        self._forward = compiled

    def _compute(self, rows: torch.Tensor, length: int) -> torch.Tensor:
        """Logits (size, vocab) of tokens, positions and slots to write to (3, size); a slot is read as row number."""
        tokens, positions, slots = rows.unbind()
        size = rows.shape[1]
        counts = (positions + 1).to(torch.int32)
        starts = torch.arange(size + 1, device=rows.device, dtype=torch.int32)
        ahead = torch.arange(length, device=rows.device)[None] - positions[:, None]  # (size, length)

        def attend(
            layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scaling: float
        ) -> torch.Tensor:
            keys, values = self._memory.layer(layer, key, value)
            keys[slots, :, positions] = key
            values[slots, :, positions] = value
            if self._varlen is not None:
                output: torch.Tensor = self._varlen(
                    query,
                    keys.transpose(1, 2),  # pages (slots, positions, kv_heads, head_dim)
                    values.transpose(1, 2),
                    starts,
                    starts,  # not read, as `seqused_k` and `block_table` say where keys are; flash attention wants both
                    1,
                    keys.shape[2],
                    scale=scaling,
                    # A lone query sees no later key anyway; without "causal", heads that share keys read them once
                    window_size=(window - 1, 0) if window else (-1, -1),
                    enable_gqa=True,
                    seqused_k=counts,
                    block_table=starts[:-1, None],
                )
                return output
            is_seen = (ahead <= 0) & (ahead > -window) if window else ahead <= 0
            kv_heads, width = key.shape[1:]
            grouped = query.reshape(size, kv_heads, -1, width)
            past = keys[:size, :, :length], values[:size, :, :length]
            out = functional.scaled_dot_product_attention(
                grouped, *past, attn_mask=is_seen[:, None, None], scale=scaling
            )
            return out.reshape(size, query.shape[1], -1)

        return self._decoder.logits(self._decoder.hidden_states(self._decoder.embed(tokens), positions, attend))


def bucket_sizes(num_slots: int) -> list[int]:
    """Powers of two below the number of slots, and that number."""
    sizes = [1]
    while 2 * sizes[-1] < num_slots:
        sizes.append(2 * sizes[-1])
    return sizes if num_slots == 1 else [*sizes, num_slots]


def varlen_attention(device: torch.device, dtype: torch.dtype, head_dim: int) -> Callable[..., Any] | None:
    """Torch's attention over paged memory, or None where it can't be used.

    That is before Ampere, in float32, before torch 2.11, and for heads of a width that flash attention doesn't take.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    if torch.cuda.get_device_capability(device) < (8, 0) or head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "block_table" in getattr(varlen_attn, "__kwdefaults__", {}) else None


@functools.cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that all graphs of a device are recorded on.

    cuBLAS keeps a workspace of up to 32 MB for each stream that it was used on, for good; so there is one.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _first_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {(str(exc).strip().splitlines() or [''])[0]}"
