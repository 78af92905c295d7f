"""For whoever writes a back end: the tests that every engine has to pass. Needs pytest and hypothesis.

See ``docs/backends.md``: inherit from `EngineContract`, and make the engine.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("llmapi_kit.testing.engine_contract", "llmapi_kit.testing.events")

from llmapi_kit.testing.engine_contract import EngineContract  # noqa: E402 - after its asserts can be rewritten
from llmapi_kit.testing.events import answers_of, check_events, collect  # noqa: E402

__all__ = ["EngineContract", "answers_of", "check_events", "collect"]
