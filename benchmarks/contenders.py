"""Who is measured: how each server is started, and what its requests need. Nothing here measures."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.environments import make_environment
from benchmarks.models import CONTEXT, BenchModel
from benchmarks.processes import ServerProcess, free_port

OURS = "llmapi_kit"
OURS_GGUF = "llmapi_kit-gguf"
OURS_LLAMA_CPP = "llmapi_kit-llama.cpp"
OURS_ISOLATED = "llmapi_kit-isolated"
OWN = (OURS, OURS_GGUF, OURS_LLAMA_CPP, OURS_ISOLATED)
# In the order of the tables, with what each is, for the report
DESCRIPTIONS = {
    OURS: "`llmapi-kit serve`",
    OURS_GGUF: "`llmapi-kit serve` of the GGUF file",
    OURS_LLAMA_CPP: "the same with `LLMAPI_KIT_NATIVE=false`, so through llama.cpp",
    OURS_ISOLATED: "`llmapi-kit serve --isolate` of the GGUF file: llama.cpp in a process of its own",
    "transformers": "`transformers serve`",
    "transformers-cb": "`transformers serve --continuous-batching`",
    "llama.cpp": "`python -m llama_cpp.server --interrupt_requests False --logits_all False`, all cores, GGUF",
    "xllamacpp": "llama.cpp's own server code in the package xllamacpp, 32 slots, all cores, GGUF",
    "xllamacpp-1": "the same on one core",
}
NAMES = tuple(DESCRIPTIONS)
GGUF_NAMES = (OURS_GGUF, OURS_LLAMA_CPP, OURS_ISOLATED, "llama.cpp", "xllamacpp", "xllamacpp-1")
EVERY_TOKEN = {"ignore_eos": True, "stream_options": {"include_usage": True}}
PEER_SERVER = Path(__file__).with_name("xllamacpp_server.py")


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


def make_ours(model: BenchModel, work: Path, *, is_gguf: bool = False, **settings: str) -> Contender:
    """This server, of the model's folder or its GGUF file.

    Settings go through the environment: ``prefix_cache="off"``.
    """
    env = {f"LLMAPI_KIT_{name.upper()}": value for name, value in settings.items()}
    return _kit(OURS_GGUF, model, work, model.gguf, [], env) if is_gguf else _ours(model, work, env)


def make_contender(name: str, model: BenchModel, work: Path) -> Contender:
    """Prepare a server; installs what it needs first.

    Raises:
        KeyError: there is no such contender.
        EnvironmentFailedError: it can't be installed.
    """
    makers: dict[str, Callable[[BenchModel, Path], Contender]] = {
        OURS: _ours,
        OURS_GGUF: partial(_ours_gguf, OURS_GGUF),
        OURS_LLAMA_CPP: partial(_ours_gguf, OURS_LLAMA_CPP, env={"LLMAPI_KIT_NATIVE": "false"}),
        OURS_ISOLATED: partial(_ours_gguf, OURS_ISOLATED, flags=("--isolate",)),
        "transformers": _transformers,
        "transformers-cb": _transformers_batching,
        "llama.cpp": _llama_cpp,
        "xllamacpp": _xllamacpp,
        "xllamacpp-1": partial(_xllamacpp, num_threads=1),
    }
    return makers[name](model, work)


def _ours(model: BenchModel, work: Path, settings: Mapping[str, str] | None = None) -> Contender:
    return _kit(OURS, model, work, model.folder, ["--dtype", model.dtype], settings or {})


def _ours_gguf(
    name: str, model: BenchModel, work: Path, *, flags: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Contender:
    return _kit(name, model, work, model.gguf, flags, env or {})


def _kit(
    name: str, model: BenchModel, work: Path, path: Path, flags: Sequence[str], settings: Mapping[str, str]
) -> Contender:
    key = secrets.token_urlsafe(32)
    port = free_port()
    command = [sys.executable, "-m", "llmapi_kit", "serve", str(path), "--port", str(port), *flags]
    env = {"LLMAPI_KIT_API_KEY": key, "LLMAPI_KIT_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", **settings}
    server = _server(name, model, work, command, port, "/readyz", env, key)
    return Contender(name, server, path.stem, EVERY_TOKEN, key)


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


def _xllamacpp(model: BenchModel, work: Path, *, num_threads: int | None = None) -> Contender:
    name = "xllamacpp" if num_threads is None else f"xllamacpp-{num_threads}"
    python = make_environment("xllamacpp", work) / "python"
    port = free_port()
    command = [str(python), str(PEER_SERVER), str(model.gguf), "--alias", model.name, "--port", str(port)]
    command += ["--threads", str(num_threads or os.cpu_count() or 1), "--context", str(CONTEXT)]
    server = _server(name, model, work, command, port, "/health", {})
    return Contender(name, server, model.name, EVERY_TOKEN)


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
