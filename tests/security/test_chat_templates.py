"""Chat templates come with models that strangers made: they render text and reach nothing else."""

from __future__ import annotations

import jinja2
import pytest

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.tokenizer import ModelTokenizer

from .conftest import CHAT, chat, connect, serving

HELLO = [{"role": "user", "content": "Hello!"}]
# Each would write the canary's file, or show what only the server may see
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__cl' ~ 'ass__'] }}{{ ''|attr('__class__')|attr('__mro__') }}",
    "{% for c in ().__class__.__base__.__subclasses__() %}{% if 'warning' in c.__name__ %}"
    "{{ c()._module.__builtins__['open']('{canary}', 'w').write('x') }}{% endif %}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.system('touch {canary}') }}",
    "{{ joiner.__init__.__globals__['__builtins__'].open('{canary}', 'w') }}",
    "{{ lipsum.__globals__['os'].popen('touch {canary}').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.loader }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('{canary}', 'w') }}",
    "{{ strftime_now.__globals__['jinja2'].Environment }}",
    "{{ strftime_now.__code__.co_consts }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ ('%s' | format).__self__ }}{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{0.__globals__}'.format(raise_exception) }}",
    "{{ '{a.__init__.__globals__}'.format_map({'a': cycler}) }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "{% set x = messages.__class__ %}{{ x.__subclasses__() }}",
    "{{ messages.append({'role': 'system'}) }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ range(10 ** 9) | list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.environ }}",
    "{% extends '/etc/passwd' %}",
]
SECRETS = ("__builtins__", "subprocess", "root:", "<class", "<module", "<function", "<built-in")


@pytest.fixture
def codec(pocket_engine):
    """The pocket model's tokenizer, whose template may be changed; it is put back."""
    codec = pocket_engine._codec
    assert isinstance(codec, ModelTokenizer)
    template = codec._tokenizer.chat_template
    codec.__dict__.pop("template_variables", None)
    yield codec
    codec._tokenizer.chat_template = template
    codec.__dict__.pop("template_variables", None)


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_can_not_leave_its_sandbox(codec, tmp_path, template):
    """In llama-cpp-python a template ran whatever its maker liked (CVE-2024-34359)."""
    canary = tmp_path / "canary"
    codec._tokenizer.chat_template = template.replace("{canary}", str(canary))
    text = rendered(codec)
    assert not canary.exists()
    assert not [secret for secret in SECRETS if secret in text.replace(repr(template), "")]


def rendered(codec):
    """The text, or why there is none; any other error is the server's own."""
    try:
        return codec.render_chat(HELLO, {})
    except InvalidRequestError as refused:
        return refused.message


@pytest.mark.parametrize(
    "template", ["{{ range(10 ** 9) | list }}", "{{ 1 // 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)
def test_a_template_that_fails_in_any_way_is_a_refusal(codec, template):
    codec._tokenizer.chat_template = template
    with pytest.raises(InvalidRequestError, match="chat template can't render") as refused:
        codec.render_chat(HELLO, {})
    assert refused.value.param == "messages"


def test_what_would_be_dangerous_is_so_outside_of_the_sandbox(tmp_path):
    """The templates above are no straw men."""
    canary = tmp_path / "canary"
    template = ESCAPES[3].replace("{canary}", str(canary))
    jinja2.Environment().from_string(template).render()
    assert canary.exists()


@pytest.mark.parametrize(
    "name", ["chat_template", "tokenize", "tokenizer", "messages", "conversation", "tools", "add_generation_prompt"]
)
def test_no_client_sends_a_template_or_what_renders_it(pocket_engine, tmp_path, name):
    """vLLM took chat_template among its options, and rendered what it was sent."""
    with serving(tmp_path, pocket_engine) as server, connect(server) as client:
        for path in (CHAT, "/tokenize"):
            body = {"messages": HELLO, "chat_template_kwargs": {name: ESCAPES[0]}}
            response = client.post(path, json=body)
            assert (response.status_code, response.json()["error"]["param"]) == (400, f"chat_template_kwargs.{name}")
            response = client.post(path, json={"messages": HELLO, "chat_template": ESCAPES[0]})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "chat_template")


def test_what_a_message_says_is_no_template(pocket_engine, tmp_path):
    with serving(tmp_path, pocket_engine) as server, connect(server) as client:
        text = "{{ 7 * 7 }}{% raw %}"
        ids = client.post("/tokenize", json={"messages": chat(text)["messages"]}).json()["tokens"]
        assert text in client.post("/detokenize", json={"tokens": ids}).json()["prompt"]
