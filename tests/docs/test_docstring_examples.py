"""Every public function has an example in its docstring, and it runs."""

from __future__ import annotations

import doctest
import inspect

import pytest

import llmapi_kit as kit
from llmapi_kit.client import RemoteServer
from llmapi_kit.loading.model import Model
from llmapi_kit.server.keys import Keys
from llmapi_kit.server.server import Server
from llmapi_kit.server.sharing import SharedServer

# What an example would say nothing about that the sentence does not.
WITHOUT = {
    *("Server.start", "Server.replace_engines", "Server.close_tunnel", "Server.tunnel_status"),
    *("Server.can_keep_tunnel", "Server.match_tunnel", "Server.take_over", "Server.reappear"),
    *("RemoteServer.async_client", "RemoteServer.check"),
    *("Keys.resume", "Keys.invite", "Keys.invitations", "Keys.withdraw"),
}
PUBLIC = {f"kit.{name}": getattr(kit, name) for name in kit.__all__ if inspect.isfunction(getattr(kit, name))} | {
    f"{owner.__name__}.{name}": function
    for owner in (Model, Server, SharedServer, Keys, RemoteServer)
    for name, function in inspect.getmembers(owner, inspect.isfunction)
    if not name.startswith("_")
}


@pytest.fixture(scope="module", autouse=True)
def stop_all():
    yield
    kit.stop_all()


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - WITHOUT))
def test_the_example_runs(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={"kit": kit})
    assert example.examples, "it has none"
    report = []
    results = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert results.failed == 0, "".join(report)


def test_what_has_none_is_named():
    assert {name for name in PUBLIC if ">>>" not in (PUBLIC[name].__doc__ or "")} == WITHOUT
