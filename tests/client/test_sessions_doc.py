"""docs/sessions.md: what it shows works."""

from __future__ import annotations

import asyncio
import json
import re
import types
from pathlib import Path

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.sessions.bots import KNOWN, Bots
from llmapi_kit.sessions.session_settings import KINDS
from llmapi_kit.sessions.steps import PromptStep, Refusal, ReplyStep

from .conftest import KEY

pytestmark = pytest.mark.kernel

TEXT = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_setting_it_shows_is_taken(tmp_path):
    [shown] = blocks("json")
    (tmp_path / "words.txt").write_text("money\n")
    setting = json.loads(shown.replace("/etc/llmapi/words.txt", str(tmp_path / "words.txt")))
    tutor = Bots(setting).get("tutor")
    with pytest.raises(Refusal, match="numbers"):
        asyncio.run(tutor.pre[0].rewrite("Money?"))
    assert asyncio.run(tutor.post[0].rewrite("1234567890123456")) == "[card]"


def test_the_steps_it_shows_are_steps():
    [shown] = [block for block in blocks("python") if "class Polite" in block]
    module = types.ModuleType("shown")
    exec(shown, vars(module))
    assert isinstance(module.Polite(), PromptStep)
    assert isinstance(module.Shouting(), ReplyStep)
    assert asyncio.run(module.Shouting().reply_filter().feed("a")) == "A"
    with pytest.raises(Refusal):
        asyncio.run(module.Polite().rewrite("now!"))


def test_the_client_code_it_shows_runs(serve, capsys):
    server = serve(MockEngine("Bonjour"))
    [shown] = [block for block in blocks("python") if "LLMClient" in block]
    shown = shown.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}").replace("sk-llmapi-…", KEY)
    namespace = {}
    exec(shown, namespace)
    namespace["client"].close()
    printed = capsys.readouterr().out
    assert printed.startswith("Bonjour\nBonjour")
    assert abs(float(printed.removeprefix("Bonjour\nBonjour"))) < 1


def test_every_bot_and_every_setting_is_named():
    for bot in KNOWN:
        assert f"| `{bot.type}` |" in TEXT
    for settings in KINDS.values():
        for name in settings.model_fields:
            assert f"`{name}`" in TEXT
