"""What load and launch take by name: shown on Shift-Tab, the same as the settings and the sources, and never stale."""

from __future__ import annotations

import inspect
import typing

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import llmapi_kit as kit
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading import options, placement
from llmapi_kit.loading.sources import SOURCES


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    shell.user_ns["kit"] = kit
    return shell


def test_launch_lists_every_setting():
    assert set(options.LaunchSettings.__annotations__) == set(Settings.model_fields)
    parameters = inspect.signature(kit.launch).parameters
    assert set(Settings.model_fields) <= set(parameters)
    assert {parameters[name].default for name in Settings.model_fields} == {None}
    assert not [each for each in parameters.values() if each.kind is each.VAR_KEYWORD]


def test_load_lists_every_option_of_every_source():
    names = {"fallback", *placement.OPTIONS}.union(
        *((*(source.options or ()), *source.settings) for source in SOURCES.values())
    )
    assert set(options.LoadOptions.__annotations__) == names
    parameters = inspect.signature(kit.load).parameters
    assert names | {"served_name", "lazy"} <= set(parameters)
    assert parameters["options"].kind is inspect.Parameter.VAR_KEYWORD, "plugins have options of their own"


def test_shared_options_have_the_type_of_the_setting():
    for table in (options.LoadOptions, options.LaunchSettings):
        hints = typing.get_type_hints(table)
        for name in set(hints) & set(Settings.model_fields):
            bare = Settings.model_fields[name].annotation
            assert bare in (*typing.get_args(hints[name]), hints[name]) or bare not in (int, float, bool), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("load", "max_slots"),
        ("load", "quantize"),
        ("launch", "drain_s"),
        ("launch", "port"),
        ("serve_engine", "tunnel"),
        ("serve_engine", "drain_s"),
    ],
)
def test_jupyter_shows_and_completes_the_options(shell, function, name):
    shown = shell.object_inspect_mime(f"kit.{function}", detail_level=0)["text/plain"]
    assert f"{name}: " in shown
    typed = f"kit.{function}(m, {name[:-1]}"
    with provisionalcompleter():
        completed = {each.text for each in shell.Completer.completions(typed, len(typed))}
    assert f"{name}=" in completed


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("max_tokens", "default_max_tokens"),
        ("gpu", 'device="cuda"'),
        ("gpu_layers", "n_gpu_layers"),
        ("n_gpu_layers", "models of another kind"),
        ("cache_type_k", 'kv_cache_dtype="q8_0"'),
        ("n_ctx", "context_length"),
        ("load_in_8bit", 'quantize="8bit"'),
        ("attn_implementation", "by the kit's own code, so there is none of transformers' to choose"),
        ("speculative_model", 'draft="owner/name"'),
        ("num_assistant_tokens", "draft_tokens"),
        ("temperature", "sampling="),
        ("quantise", "Did you mean 'quantize'"),
        ("devise", "Did you mean 'device'"),
        ("port", "argument of kit.launch"),
        ("share", "argument of kit.launch"),
    ],
)
def test_an_argument_that_is_not_known_is_answered_with_the_right_one(argument, words):
    with pytest.raises(ConfigError) as caught:
        kit.load("pocket", **{argument: 1})
    assert words in str(caught.value)


def test_what_other_tools_call_it_is_no_name_here():
    assert not set(options.LOAD_HABITS) & {*options.LoadOptions.__annotations__, "served_name", "lazy"}
    launch = {*options.LaunchSettings.__annotations__, *options.LAUNCH_ONLY, "api_key"}
    assert not set(options.LAUNCH_HABITS) & launch


def test_a_model_that_is_not_known_is_answered_with_one_that_is():
    with pytest.raises(kit.LlmApiKitError, match="Did you mean 'pocket'"):
        kit.load("poket")
