"""Importing the kit is cheap, and the mock needs nothing that is heavy."""

import pytest

import llmapi_kit as kit

pytestmark = pytest.mark.kernel

HEAVY = """
import sys
HEAVY = {"torch", "transformers", "fastapi", "starlette", "uvicorn", "pydantic", "httpx", "openai", "IPython",
         "ipywidgets", "nest_asyncio", "pyngrok", "psutil", "asyncio"}
before = set(sys.modules)
import llmapi_kit
print(sorted(HEAVY & (set(sys.modules) - before)))
"""

WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers"):
    sys.modules[name] = None
import llmapi_kit as kit
server = kit.launch("mock", port=0)
print(kit.connect().models(), server.client().models.list().data[0].id)
try:
    kit.load("pocket")
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_importing_the_kit_imports_nothing_heavy(program):
    assert program(HEAVY) == "[]"


@pytest.mark.slow
def test_without_torch_the_mock_serves_and_a_real_model_names_the_pip_command(program):
    mock, error = program(WITHOUT_TORCH, options=("-W", "ignore::ResourceWarning")).splitlines()
    assert mock == "['mock'] mock"
    assert error.startswith("MissingDependencyError Loading pocket needs ")
    assert error.endswith('pip install "llmapi-kit[torch]"')


def test_load_names_the_arguments_it_takes():
    with pytest.raises(kit.LlmApiKitError, match=r"load\(\) has no argument 'speed' for 'mock'. It takes .*max_slots"):
        kit.load("mock", speed=2)
