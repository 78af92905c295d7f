"""How families of models write reasoning and tool calls: reading it from an answer, forcing it, and giving it back."""

from llmapi_kit.dialects.base import Piece, Reasoning, ReplyParser
from llmapi_kit.dialects.detection import dialect_of
from llmapi_kit.dialects.dialect import PLAIN, Dialect
from llmapi_kit.dialects.history import HistoryForm, messages_for_template

__all__ = [
    "PLAIN",
    "Dialect",
    "HistoryForm",
    "Piece",
    "Reasoning",
    "ReplyParser",
    "dialect_of",
    "messages_for_template",
]
