"""A load that failed, as it is told to clients: the reason without what they have no business to know.

A failed load is not tried again at once: each failure doubles the pause, up to a minute.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from llmapi_kit.errors import EngineUnavailableError, LlmApiKitError, ModelLoadError, ModelTooLargeError

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
MAX_LENGTH = 600
# A slash that begins a path: not one within a URL, a hub name or a fraction
PATH = re.compile(r"(?<![\w:/.~])(?:~?[/\\]|[A-Za-z]:\\)(?:[^\s'\"`,;()<>/\\]+[/\\])*(?P<last>[^\s'\"`,;()<>/\\]+)")
TOKEN = re.compile(r"\b(?:hf_|sk-|Bearer\s+)[\w.-]{6,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why the last load failed.

    Attributes:
        message: for clients.
        pause_s: how long no other load is tried; 0 where trying again costs nothing.
        since: when it failed, on the monotonic clock.
    """

    message: str
    pause_s: float
    since: float = field(default_factory=time.monotonic)

    @property
    def pause_left_s(self) -> float:
        """How long no other load is tried from now on; 0 when it may be."""
        return max(0.0, self.since + self.pause_s - time.monotonic())

    def error(self) -> EngineUnavailableError:
        """A fresh error for a request."""
        return EngineUnavailableError(
            self.message, param="model", code="model_load_failed", retry_after_s=max(1.0, self.pause_left_s)
        )


def load_failure(name: str, path: str | None, exc: BaseException, before: LoadFailure | None) -> LoadFailure:
    """What to tell of a load that failed.

    Args:
        name: the model's, as the user wrote it.
        path: where that is on this machine, if anywhere.
        exc: what loading raised.
        before: the failure before this one, if there was no success since.
    """
    if isinstance(exc, LlmApiKitError):
        reason = without_secrets(str(exc), name, path)
    else:
        reason = f"{type(exc).__name__} while it was loaded. The server's log says more."
    pause_s = FIRST_PAUSE_S if before is None else min(2 * max(before.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
    if isinstance(exc, ModelTooLargeError):  # there may be room in a moment, and finding out is cheap
        pause_s = 0.0
    return LoadFailure(f"The model {name!r} could not be loaded: {reason}", pause_s)


def load_error(name: str, exc: Exception) -> ModelLoadError:
    """What another library raised while a model was loaded, as an error of the kit.

    Args:
        name: the model's.
        exc: none of the kit's own.
    """
    if isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError":  # torch's, which need not be there
        return ModelTooLargeError(f"{name} does not fit: {exc}")
    return ModelLoadError(f"{name} could not be loaded: {type(exc).__name__}: {exc}")


def without_secrets(text: str, name: str, path: str | None) -> str:
    """A message without tokens, and without folders of this machine but what the user wrote."""
    if path:
        text = text.replace(path, name)
    kept = name if PATH.fullmatch(name) else None

    def shorten(match: re.Match[str]) -> str:
        whole = match.group()
        return whole if kept is not None and whole.startswith(kept) else f"…/{match['last']}"

    return TOKEN.sub("…", PATH.sub(shorten, text))[:MAX_LENGTH]
