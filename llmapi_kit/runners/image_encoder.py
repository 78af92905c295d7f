"""Looks at pictures with libmtmd: from pixels to what a decoder reads in their place.

Used in a process of its own, see `llmapi_kit.runners.image_process`: libmtmd ends the process where a file contradicts
itself, or a picture has a shape that it did not think of. Free of torch; used on one thread.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from llmapi_kit.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from llmapi_kit.runners import libllama, libmtmd
from llmapi_kit.runners.image_chunk import EncodedImage, ImageSpan

PROBE_SIDE = 64


class ImageEncoder:
    """An mmproj file in memory, beside the model that it belongs to, of which the weights are not read.

    Args:
        model: path of the model's file; of one in several parts, the first.
        mmproj: path of the file for pictures.
        num_threads: CPU threads of a look.
        use_gpu: compute on the GPU, where the library can.

    Attributes:
        width: of a vector.
        is_causal: whether parts of a picture see only what stands before them.
        has_grid: whether positions have several dimensions.

    Raises:
        ModelLoadError: llama.cpp can't load it, or it computes no finite numbers.
        UnsupportedModelError: it is for something else than pictures.
    """

    def __init__(self, model: Path, mmproj: Path, *, num_threads: int = 1, use_gpu: bool = False) -> None:
        self._name = mmproj.name
        self._llama: Any = libllama.load_libllama()
        self._mtmd: Any = libmtmd.load_libmtmd()
        text = self._load_model(model)
        self.width = int(self._llama.llama_model_n_embd_inp(text))
        params = self._mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads = use_gpu, num_threads
        params.print_timings = params.warmup = False
        libllama.take_errors()
        self._context = self._mtmd.mtmd_init_from_file(str(mmproj).encode(), text, params)
        if not self._context:
            raise ModelLoadError(f"llama.cpp can't load {mmproj.name} for {model.name}: {libllama.take_errors()}.")
        if not self._mtmd.mtmd_support_vision(self._context):
            raise UnsupportedModelError(f"{mmproj.name} is not for pictures.")
        self.is_causal = not self._mtmd.mtmd_decode_use_non_causal(self._context, None)
        self.has_grid = bool(self._mtmd.mtmd_decode_use_mrope(self._context))
        self._probe()

    def encode(self, pixels: bytes, size: tuple[int, int]) -> EncodedImage:
        """What stands for a picture.

        Args:
            pixels: red, green and blue of each, row by row.
            size: width and height.

        Raises:
            InvalidRequestError: the model can't take a picture of this shape.
        """
        mtmd = self._mtmd
        bitmap = ctypes.c_void_p(mtmd.mtmd_bitmap_init(*size, pixels))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = libmtmd.InputText(libmtmd.MARKER, len(libmtmd.MARKER), False, True)
            libllama.take_errors()
            if mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), ctypes.byref(bitmap), 1):
                width, height = size
                raise InvalidRequestError(
                    f"has {width:,} x {height:,} pixels, which this model can't take: {libllama.take_errors()}."
                )
            return self._read(chunks)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _load_model(self, path: Path) -> int:
        """The model without its weights, of which libmtmd asks the vocabulary and the width."""
        params = self._llama.llama_model_default_params()
        params.no_alloc, params.load_mode, params.n_gpu_layers = True, libllama.NO_MMAP, 0
        libllama.take_errors()
        handle = self._llama.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelLoadError(f"llama.cpp can't load {path.name}: {libllama.take_errors()}.")
        return int(handle)

    def _read(self, chunks: int) -> EncodedImage:
        """Tokens and vectors of all chunks."""
        mtmd = self._mtmd
        parts: list[list[int] | ImageSpan] = []
        vectors = [np.empty((0, self.width), np.float32)]
        for number in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, number)
            if mtmd.mtmd_input_chunk_get_type(chunk) == libmtmd.TEXT:
                parts.append(self._tokens(chunk))
                continue
            if mtmd.mtmd_encode_chunk(self._context, chunk):
                raise RuntimeError(f"llama.cpp could not look at the picture: {libllama.take_errors()}")
            span = self._span(chunk)
            parts.append(span)
            found = mtmd.mtmd_get_output_embd(self._context)
            vectors.append(np.ctypeslib.as_array(found, (span.num_vectors, self.width)).copy())
        return EncodedImage(parts, np.concatenate(vectors))

    def _tokens(self, chunk: int) -> list[int]:
        count = ctypes.c_size_t()
        address = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return list((ctypes.c_int32 * count.value).from_address(address)) if count.value else []

    def _span(self, chunk: int) -> ImageSpan:
        mtmd = self._mtmd
        num_vectors = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        grid = None
        if self.has_grid:
            image = mtmd.mtmd_input_chunk_get_tokens_image(chunk)
            places = [
                [mtmd.mtmd_image_tokens_get_decoder_pos(image, start, i) for i in range(num_vectors)]
                for start in (0, 1)
            ]
            grid = np.array([[(p.t, p.y, p.x, p.z) for p in each] for each in places], np.int32).transpose(0, 2, 1)
        is_causal = not mtmd.mtmd_decode_use_non_causal(self._context, chunk)
        return ImageSpan(num_vectors, mtmd.mtmd_input_chunk_get_n_pos(chunk), is_causal, grid)

    def _probe(self) -> None:
        """Look at a grey picture, and whether numbers come of it."""
        try:
            seen = self.encode(b"\x80" * (3 * PROBE_SIDE**2), (PROBE_SIDE, PROBE_SIDE))
        except (InvalidRequestError, RuntimeError) as exc:
            raise UnsupportedModelError(f"{self._name} failed on a first picture: {exc}") from exc
        if not len(seen.vectors):
            raise UnsupportedModelError(f"{self._name} makes nothing of a picture.")
        if not bool(np.isfinite(seen.vectors).all()):
            raise ModelLoadError(
                f"{self._name} computes numbers that are not finite; its weights are damaged. Download it again."
            )
