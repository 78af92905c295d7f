"""The chat page that stands at the server's ``/``: HTML, style sheets and modules, for people without a notebook.

Served as they are, without a build step. What renders answers is also a part of the notebook's chat. Knows nothing of
HTTP; `llmapi_kit.api.page` serves what `files.py` lists.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
