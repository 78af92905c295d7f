"""The public names are a promise: adding or losing one is a decision, made here too."""

import pkgutil

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
    "load_embeddings",
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


def test_an_unknown_name_is_an_attribute_error_that_says_what_was_meant():
    with pytest.raises(AttributeError, match=r"no attribute 'lunch'\. Did you mean 'launch'\?"):
        kit.lunch  # noqa: B018 - asking is the test
    with pytest.raises(AttributeError, match=r"It is kit\.launch\(model\) here"):
        kit.serve  # noqa: B018
    assert not hasattr(kit, "_repr_html_")


def test_whoever_looks_for_models_is_told_where_they_are_also_after_a_load(warm_python):
    code = "import llmapi_kit as kit; kit.load('mock'); kit.models()"
    assert "kit.choose() lists models to load" in warm_python.run(code).stderr


def test_no_room_hides_a_public_name_or_the_hint_for_one():
    rooms = {room.name for room in pkgutil.iter_modules(kit.__path__) if room.ispkg}
    # A documented place to import from, so this hint is only there until the package is.
    assert rooms & {*PUBLIC, *kit._HABITS} == {"client"}
