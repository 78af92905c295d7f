"""Back ends that other packages bring: found by their metadata, called, and blamed by name when they are broken."""

from __future__ import annotations

import asyncio

import pytest

import llmapi_kit as kit
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.errors import ConfigError, ModelLoadError, ModelNotFoundError
from llmapi_kit.loading.load_request import make_engine
from tests.engines.conftest import ask, collect
from tests.plugin_packages import add_package, without_collecting_garbage

pytestmark = pytest.mark.kernel

GOOD = """
    from llmapi_kit.engines.mock import MockEngine
    from llmapi_kit.errors import ConfigError

    given = []

    def make(name, **options):
        given.append((name, options))
        if "colour" in options:
            raise ConfigError("colour is not known; shape is.")
        return MockEngine("made here", name="whatever")
"""


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    without_collecting_garbage(monkeypatch)
    yield
    kit.stop_all()


@pytest.fixture
def package(monkeypatch, tmp_path):
    def add(name, code, **entries):
        add_package(monkeypatch, tmp_path / name, name, code, entries=entries)

    return add


def load(name, **options):
    return make_engine(parse_spec(name), load_settings(), **options)


def test_the_factory_gets_the_name_and_the_options(package):
    package("good_back_end", GOOD, mine="make")
    model = kit.load("mine:some/name:v2", shape="round", size=3)
    import good_back_end

    assert good_back_end.given == [("some/name:v2", {"shape": "round", "size": 3})]
    assert model.name == "some/name:v2", "the name it is served under is what stands after the colon"
    text, _ = asyncio.run(collect(model.engine.generate(ask())))
    assert text == "made here"
    assert kit.load("mine:some/name:v2", size=3, shape="round") is model
    assert kit.load("mine:some/name:v2", size=4) is not model
    assert kit.load("mine:x", served_name="y").name == "y"


def test_options_that_a_factory_refuses_are_refused_with_its_words(package):
    package("good_back_end", GOOD, mine="make")
    with pytest.raises(ConfigError, match="of the package good_back_end: colour is not known; shape is"):
        kit.load("mine:x", colour="red")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_that_name", "can't be imported: ModuleNotFoundError: No module named 'nothing_of"),
        ("raise OSError('no licence')", "can't be imported: OSError: no licence"),
        ("make_it = None", "can't be imported: AttributeError"),
        ("make = 3", "is broken_back_end:make, which can't be called"),
        ("def make(name): raise ValueError('no such weights')", "failed to load 'x': ValueError: no such weights"),
        ("def make(name): raise TypeError('no options')", "failed to load 'x': TypeError"),
        ("def make(name): return 'engine'", "made no engine: info must be a llmapi_kit.types.EngineInfo"),
        ("def make(name): return None", "made no engine"),
    ],
)
def test_a_broken_back_end_is_blamed_by_the_name_of_its_package(package, code, message):
    package("broken_back_end", code, mine="make")
    with pytest.raises(ModelLoadError) as caught:
        load("mine:x")
    assert str(caught.value).startswith("The back end 'mine' of the package broken_back_end ")
    assert message in str(caught.value)


def test_what_a_factory_was_given_to_keep_is_not_repeated(package):
    package("leaky_back_end", "def make(name, token): raise ValueError(f'refused {token}')", leaky="make")
    with pytest.raises(ModelLoadError, match="refused …") as caught:
        load("leaky:x", token="secret-canary-1234")
    assert "canary" not in str(caught.value)


def test_two_packages_with_one_name_are_told_apart_by_nobody(package):
    package("first_back_end", GOOD, mine="make")
    package("second_back_end", GOOD, mine="make")
    with pytest.raises(ConfigError, match="first_back_end, second_back_end"):
        parse_spec("mine:x")


def test_an_unknown_prefix_names_those_that_are_installed(package):
    package("good_back_end", GOOD, mine="make", other="make")
    with pytest.raises(ModelNotFoundError, match=r"no provider 'yours'\. Known are: openai, .*, mine, other;"):
        parse_spec("yours:x")


def test_a_back_end_can_not_take_a_providers_name(package):
    package("good_back_end", GOOD, openai="make", pocket="make")
    assert parse_spec("openai:gpt-4o").kind == "upstream"
    assert parse_spec("pocket").kind == "folder"


@pytest.mark.parametrize("name", ["mine:", "mine: ", "mine:a\nb"])
def test_a_name_without_a_model_is_refused(package, name):
    package("good_back_end", GOOD, mine="make")
    with pytest.raises(ModelNotFoundError, match="mine:name"):
        parse_spec(name)
