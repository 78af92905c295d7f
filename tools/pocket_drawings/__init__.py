"""What pocket-vision learns from: drawings of shapes and words, and questions about them with their answers.

Written for this model, from scratch. Used by `tools/train_pocket_vision.py` to train and measure it, and by the tests.
"""

from __future__ import annotations

from .drawing import GRID, SIZE, Drawing, Thing, draw
from .questions import KINDS, Question, ask
from .talk import talk

__all__ = ["GRID", "KINDS", "SIZE", "Drawing", "Question", "Thing", "ask", "draw", "talk"]
