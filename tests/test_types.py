from __future__ import annotations

import dataclasses
import inspect

import pytest

from llmapi_kit import types

pytestmark = pytest.mark.kernel


def test_all_value_objects_are_immutable_but_those_that_the_module_names():
    found = [each for _, each in inspect.getmembers(types, dataclasses.is_dataclass)]
    mutable = {each.__name__ for each in found if not each.__dataclass_params__.frozen}
    assert mutable == {"Latencies", "EngineStats"}
    assert all(f"`{name}`" in types.__doc__ for name in mutable)
