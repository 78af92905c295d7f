"""Does a runner make of a picture what its model makes of it: tried once, for families that nobody tried before."""

from __future__ import annotations

from llmapi_kit.checkpoints.vision_encoder import Trial
from llmapi_kit.errors import UnsupportedModelError
from llmapi_kit.runners.base import Runner, StepItem
from llmapi_kit.runners.image_memory import ImageMemory
from llmapi_kit.runners.picture_runs import picture_runs

DIGEST = "trial"


def check_picture(runner: Runner, images: ImageMemory, trial: Trial, vector_token_id: int, name: str) -> None:
    """Compute a prompt with a picture in two chunks and a decode, and compare.

    Args:
        runner: of the model's decoder.
        images: that it reads from.
        trial: the prompt, and what it has to come to.
        vector_token_id: what stands for a vector in it.
        name: of the model's class, for messages.

    Raises:
        UnsupportedModelError: a step failed, or the logits differ.
    """
    placed = images.add(DIGEST, trial.seen)
    vectors = iter(range(placed.first_id, placed.first_id + len(trial.seen.features)))
    try:
        ids = [next(vectors) if i == vector_token_id else i for i in trial.ids]
        start, end = picture_runs(ids)[-1]
        last, cut = len(ids) - 1, end if images.is_bidirectional else (start + end) // 2
        runner.step([StepItem(0, 0, ids[:cut], False)])
        runner.step([StepItem(0, cut, ids[cut:last], False)])
        logits = runner.step([StepItem(0, last, ids[last:], True)])
    except Exception as exc:
        raise UnsupportedModelError(
            f"{name} can't be served: it does not see pictures here: {type(exc).__name__}: {exc}"
        ) from exc
    finally:
        images.unpin([DIGEST])
    difference = (logits - trial.logits).float().abs().max().item()
    scale = trial.logits.float().abs().max().item()
    # As in `self_check`
    if not difference <= 1e-3 + (0.1 if trial.logits.element_size() < 4 else 1e-3) * scale:
        raise UnsupportedModelError(
            f"{name} can't be served: after a picture it gives other logits here than by itself (largest difference "
            f"{difference:.3g} at logits up to {scale:.3g})."
        )
