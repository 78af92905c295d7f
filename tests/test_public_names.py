"""The public names are a promise: adding or losing one is a decision, made here too."""

import pytest

import llmapi_kit as kit

pytestmark = pytest.mark.kernel

PUBLIC = [
    "LlmApiKitError",
    "__version__",
    "chat",
    "choose",
    "connect",
    "dashboard",
    "doctor",
    "launch",
    "load",
    "machine",
    "run",
    "serve_engine",
    "servers",
    "show",
    "stop_all",
]


def test_the_public_names_are_these():
    assert sorted(kit.__all__) == sorted(PUBLIC)
    assert set(dir(kit)) >= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_when_it_is_asked_for(name):
    thing = getattr(kit, name)
    assert thing is not None
    assert getattr(kit, name) is thing


@pytest.mark.parametrize("name", [name for name in PUBLIC if name[0].islower()])
def test_each_function_says_what_it_does(name):
    assert getattr(kit, name).__doc__.strip()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        kit.lunch  # noqa: B018 - asking is the test
