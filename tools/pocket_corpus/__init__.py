"""The corpus of the pocket model: questions in English and Chinese, and conversations made of them.

Written for this model, from scratch. Used by `tools/train_pocket.py` to train and measure it, and by the
tests.
"""

from __future__ import annotations

from .conversations import Conversation, conversations, question_splits, questions

__all__ = ["Conversation", "conversations", "question_splits", "questions"]
