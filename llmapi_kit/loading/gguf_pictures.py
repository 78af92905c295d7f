"""What a GGUF model needs to see: its mmproj file, the process that looks, and the memory of what it saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmapi_kit.checkpoints.gguf_file import GgufFile
from llmapi_kit.checkpoints.gguf_header import GgufHeader
from llmapi_kit.checkpoints.mmproj import find_mmproj, open_mmproj
from llmapi_kit.config import Settings
from llmapi_kit.loading.gguf_options import GgufOptions
from llmapi_kit.progress import report
from llmapi_kit.runners.image_process import EncoderSetup, ImageProcess
from llmapi_kit.runners.llama_context import BATCH_TOKENS, MICRO_BATCH_TOKENS

if TYPE_CHECKING:
    from llmapi_kit.engines.local.gguf_prompt_pictures import GgufPromptPictures
    from llmapi_kit.runners.llama_cpp_runner import Steps
    from llmapi_kit.runners.multimodal_steps import VectorSteps
    from llmapi_kit.sampling.marked_tokenizer import MarkedTokenizer


def mmproj_of(file: GgufFile, options: GgufOptions) -> GgufHeader | None:
    """The head of the mmproj file that goes with a model; None where there is none.

    Raises:
        ModelError: the one that was named is damaged, or of another model.
    """
    if options.mmproj is False:
        return None
    path = Path(options.mmproj).expanduser() if isinstance(options.mmproj, str) else find_mmproj(file)
    return open_mmproj(path, file) if path is not None else None


class PictureSetup:
    """The parts of one load. Starts the process that looks at pictures.

    Args:
        file: of the model.
        mmproj: head of its mmproj file.
        settings: how pictures may come, and threads.
        has_gpu: whether to look with the GPU.

    Attributes:
        n_ubatch: tokens that the model has to compute together.

    Raises:
        ModelError: llama.cpp can't use the files.
    """

    def __init__(self, file: GgufFile, mmproj: GgufHeader, settings: Settings, *, has_gpu: bool) -> None:
        import torch

        from llmapi_kit.runners.image_memory import ImageMemory

        report("reading the mmproj file")
        self._settings = settings
        self._images = ImageMemory()
        num_threads = settings.num_threads or torch.get_num_threads()
        self._process = ImageProcess(
            EncoderSetup(model=str(file.path), mmproj=str(mmproj.path), num_threads=num_threads, use_gpu=has_gpu)
        )
        self.n_ubatch = MICRO_BATCH_TOKENS if self._process.is_causal else BATCH_TOKENS

    def seeing(self, steps: VectorSteps) -> Steps:
        """Steps that take pictures, and close what looks at them when they are closed."""
        from llmapi_kit.runners.multimodal_steps import MultimodalSteps

        return MultimodalSteps(steps, self._images, self.close)

    def prompt_pictures(self, tokenizer: MarkedTokenizer, max_length: int) -> GgufPromptPictures:
        """What puts pictures into prompts of up to so many tokens."""
        from llmapi_kit.engines.local.gguf_prompt_pictures import GgufPromptPictures, GgufVisionEncoder

        vision: Any = GgufVisionEncoder(self._process, tokenizer)  # to `PromptPictures` the same as a `VisionEncoder`
        return GgufPromptPictures(vision, self._images, tokenizer, self._settings, max_length)

    def close(self) -> None:
        """End the process."""
        self._process.close()
