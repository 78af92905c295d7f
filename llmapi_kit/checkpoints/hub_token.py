"""The token of the Hugging Face hub, from wherever this machine keeps it; asked for only as far as it is needed.

Colab's secrets are asked last and under a deadline of their own: the look-up shows a dialog, and outside of Colab's own
page it never returns. The token stands in no message, log or repr.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

logger = logging.getLogger(__name__)

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SECRET_TIMEOUT_S = 20.0


def find_token() -> str | None:
    """The token of the environment or of ``hf auth login``; None where there is none. Asks nobody, returns at once."""
    for name in VARIABLES:
        if value := os.environ.get(name, "").strip():
            return value
    try:
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def ask_for_token(timeout_s: float = SECRET_TIMEOUT_S) -> str | None:
    """`find_token`, and in Colab the secret HF_TOKEN if its page answers in time.

    For a model that is refused without a token: for others nobody should have to answer Colab's dialog.
    """
    found = find_token()
    if found is not None or "google.colab" not in sys.modules:
        return found
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_ask_colab()), name="llmapi_kit HF_TOKEN", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not answer:
        logger.warning("Colab's secret HF_TOKEN was not told within %g s; going on without a token", timeout_s)
    return answer[0] if answer else None


def _ask_colab() -> str | None:
    try:
        return huggingface_hub.get_token()
    except Exception:  # Colab's own errors: no such secret, no access to it
        return None
