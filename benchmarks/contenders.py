"""Who is measured: how each server is started, and what its requests need. Nothing here measures."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import make_environment
from benchmarks.models import BenchModel
from benchmarks.processes import ServerProcess, free_port

OURS = "llmapi_kit"
# In the order of the tables, with what each is, for the report
DESCRIPTIONS = {
    OURS: "`llmapi-kit serve`",
    "transformers": "`transformers serve`",
    "transformers-cb": "`transformers serve --continuous-batching`",
    "llama.cpp": "`python -m llama_cpp.server --interrupt_requests False --logits_all False`, all cores, GGUF",
}
NAMES = tuple(DESCRIPTIONS)


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, ready to be started and asked.

    Attributes:
        name: one of `NAMES`.
        server: its process, not started yet.
        model: what requests call the model.
        fields: what its requests have besides those of all.
        key: bearer key, where it wants one.
    """

    name: str
    server: ServerProcess
    model: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None

    @property
    def url(self) -> str:
        """Of its chat completions."""
        return f"{self.server.url}/v1/chat/completions"


def make_ours(model: BenchModel, work: Path, **settings: str) -> Contender:
    """This server; settings go through the environment: ``prefix_cache="off"``."""
    return _ours(model, work, {f"LLMAPI_KIT_{name.upper()}": value for name, value in settings.items()})


def make_contender(name: str, model: BenchModel, work: Path) -> Contender:
    """Prepare a server; installs what it needs first.

    Raises:
        KeyError: there is no such contender.
        EnvironmentFailedError: it can't be installed.
    """
    makers: dict[str, Callable[[BenchModel, Path], Contender]] = {
        OURS: _ours,
        "transformers": _transformers,
        "transformers-cb": _transformers_batching,
        "llama.cpp": _llama_cpp,
    }
    return makers[name](model, work)


def _ours(model: BenchModel, work: Path, settings: Mapping[str, str] | None = None) -> Contender:
    key = secrets.token_urlsafe(32)
    port = free_port()
    command = [sys.executable, "-m", "llmapi_kit", "serve", str(model.folder), "--port", str(port)]
    command += ["--dtype", model.dtype]
    env = {"LLMAPI_KIT_API_KEY": key, "LLMAPI_KIT_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", **(settings or {})}
    server = _server(OURS, model, work, command, port, "/readyz", env, key)
    fields = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return Contender(OURS, server, model.folder.name, fields, key)


def _transformers(model: BenchModel, work: Path, *flags: str, name: str = "transformers") -> Contender:
    program = make_environment("transformers", work) / "transformers"
    port = free_port()
    command = [str(program), "serve", str(model.folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", model.dtype, *flags]
    server = _server(name, model, work, command, port, "/health", {"HF_HUB_OFFLINE": "1"})
    return Contender(name, server, str(model.folder))


def _transformers_batching(model: BenchModel, work: Path) -> Contender:
    return _transformers(model, work, "--continuous-batching", name="transformers-cb")


def _llama_cpp(model: BenchModel, work: Path) -> Contender:
    python = make_environment("llama_cpp", work) / "python"
    port = free_port()
    command = [str(python), "-m", "llama_cpp.server", "--model", str(model.gguf), "--model_alias", model.name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "4096"]
    # By default a second request cuts off the first, half of the cores decode, and logits of all of a prompt are kept
    command += ["--interrupt_requests", "False", "--n_threads", str(os.cpu_count() or 1), "--logits_all", "False"]
    server = _server("llama.cpp", model, work, command, port, "/v1/models", {})
    return Contender("llama.cpp", server, model.name)


def _server(
    name: str,
    model: BenchModel,
    work: Path,
    command: list[str],
    port: int,
    ready_path: str,
    env: Mapping[str, str],
    key: str | None = None,
) -> ServerProcess:
    log = work / "logs" / f"{model.name}-{name}-{port}.log"
    url = f"http://127.0.0.1:{port}"
    return ServerProcess(name, command, url=url, ready_path=ready_path, env=env, log=log, key=key)
