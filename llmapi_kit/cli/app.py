"""The kit from a terminal: ``llmapi-kit serve|share|chat|keys|doctor|notebooks``.

The same words as in a cell, and no logic of its own. An error of the kit is one line on stderr and exit status 1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from llmapi_kit.checkpoints.heavy_imports import uncollected
from llmapi_kit.cli import keys
from llmapi_kit.cli.error_lines import errors_as_lines as _errors_as_lines
from llmapi_kit.errors import MissingDependencyError
from llmapi_kit.progress import Progress, reporting
from llmapi_kit.version import __version__

app = typer.Typer(
    help="Turn a machine into a model server with an OpenAI-compatible API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Turn a machine into a model server with an OpenAI-compatible API."""
    if version:
        print(f"llmapi-kit {__version__}")
        raise typer.Exit


# So that --load_in_8bit is --load-in-8bit
UNDERSCORES = {"token_normalize_func": lambda name: name.replace("_", "-")}
TUNNEL_HELP = (
    "A public URL: 'auto' for the first that works, 'ngrok', 'cloudflared', 'ssh', 'localhost.run', 'pinggy' or "
    "'serveo'. Tokens come from the environment: NGROK_AUTHTOKEN, TUNNEL_TOKEN, PINGGY_TOKEN."
)
TUNNEL_OPTION_HELP = "Such as host=user@example.com (ssh) or domain=… (ngrok, cloudflared). May be given again."
MODEL, PLACE, NAMES, SERVER = "The model", "Where it runs", "Several models, and names", "The server"
GGUF = "GGUF files"


@app.command(context_settings=UNDERSCORES)
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="'pocket', 'pocket-vision', 'mock', a folder, a GGUF file or a hub name. Default: pocket. Several are "
            "loaded when they are first asked for.",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Another way to name the model.", rich_help_panel=MODEL)
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            "--lora-model",
            help="A LoRA adapter to merge: a folder or a hub name; or, several times, name=path: served as model:name.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "--tokenizer-path",
            help="In place of the adapter's or the model's: a folder or a hub name.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="'float32', 'bfloat16' or 'float16'.", rich_help_panel=MODEL)
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(help="'int8' or 'int4' on a CPU, '8bit' or '4bit' on a GPU.", rich_help_panel=MODEL),
    ] = None,
    load_in_8bit: Annotated[
        bool, typer.Option("--load-in-8bit", help="The same as --quantize 8bit.", rich_help_panel=MODEL)
    ] = False,
    max_slots: Annotated[int | None, typer.Option(help="Requests answered at once.", rich_help_panel=MODEL)] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            "--context-length", "--ctx-size", "--n-ctx", help="Most tokens a request may have.", rich_help_panel=MODEL
        ),
    ] = None,
    num_threads: Annotated[
        int | None,
        typer.Option("--num-threads", "--threads", help="CPU threads that compute a step.", rich_help_panel=PLACE),
    ] = None,
    n_gpu_layers: Annotated[
        int | None,
        typer.Option(
            "--n-gpu-layers", "--gpu-layers", help="Layers on the GPU. Default: all of them.", rich_help_panel=GGUF
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format of keys and values: 'q8_0' takes half of the memory of 'f16', the default.",
            rich_help_panel=GGUF,
        ),
    ] = None,
    flash_attn: Annotated[
        bool | None,
        typer.Option(help="Attention without its matrix. Default: where it can be done.", rich_help_panel=GGUF),
    ] = None,
    mmap: Annotated[
        bool | None,
        typer.Option(help="Map the file into memory. Default: where it can be done.", rich_help_panel=GGUF),
    ] = None,
    mlock: Annotated[
        bool, typer.Option("--mlock", help="Keep the weights from being swapped out.", rich_help_panel=GGUF)
    ] = False,
    rope_scaling: Annotated[
        str | None, typer.Option(help="'none', 'linear' or 'yarn'. Default: the file's.", rich_help_panel=GGUF)
    ] = None,
    rope_freq_base: Annotated[
        float | None, typer.Option(help="Of the rotary embedding. Default: the file's.", rich_help_panel=GGUF)
    ] = None,
    rope_freq_scale: Annotated[
        float | None, typer.Option(help="Factor of positions: 0.5 doubles the context.", rich_help_panel=GGUF)
    ] = None,
    isolate: Annotated[
        bool | None,
        typer.Option(help="Compute in a process of its own. Default: in this one.", rich_help_panel=GGUF),
    ] = None,
    mmproj: Annotated[
        str | None,
        typer.Option(help="The file for pictures of a model that sees. Default: one beside it.", rich_help_panel=GGUF),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="'cpu', 'cuda' or 'cuda:1'. Default: a GPU where there is one.", rich_help_panel=PLACE),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="The GPU's number, 0, or several, 0,1.", rich_help_panel=PLACE)
    ] = None,
    process: Annotated[
        bool, typer.Option("--process", help="Each model in a process of its own.", rich_help_panel=PLACE)
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(help="Processes of each model, which share its requests.", rich_help_panel=PLACE)
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster to run the models in: 'auto', 'local' or 'ray://head:10001'.", rich_help_panel=PLACE
        ),
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="With --cluster: replicas of each model under load.", rich_help_panel=PLACE)
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="Processes to divide each model over, each on a GPU.", rich_help_panel=PLACE)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Of a hub model: a branch, a tag or a commit.", rich_help_panel=MODEL)
    ] = None,
    subfolder: Annotated[
        str | None, typer.Option(help="Of a hub model: the folder that it is in.", rich_help_panel=MODEL)
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            help="'prompt-lookup' guesses what an answer repeats; the folder or hub name of a small model has that one "
            "guess. Default: no guesses.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    draft_tokens: Annotated[
        int | None, typer.Option(help="Most tokens that --draft guesses at once.", rich_help_panel=MODEL)
    ] = None,
    only_cpu: Annotated[
        bool, typer.Option("--only-cpu", help="The same as --device cpu.", rich_help_panel=PLACE)
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: its own name.", rich_help_panel=NAMES)
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name: gpt-4o=pocket. May be given again.", show_default=False, rich_help_panel=NAMES
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(help="The model for requests that name none. Default: the first.", rich_help_panel=NAMES),
    ] = None,
    port: Annotated[int, typer.Option(help="0 picks a free one.", rich_help_panel=SERVER)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to bind; 0.0.0.0 lets the network in.", rich_help_panel=SERVER)
    ] = "127.0.0.1",
    tunnel: Annotated[str | None, typer.Option(help=TUNNEL_HELP, rich_help_panel=SERVER)] = None,
    tunnel_option: Annotated[
        list[str] | None, typer.Option(help=TUNNEL_OPTION_HELP, show_default=False, rich_help_panel=SERVER)
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file of yours that holds the key to ask for.", rich_help_panel=SERVER)
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", hidden=True)] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", hidden=True)] = False,
) -> None:
    """Serve models until Ctrl-C.

    The key is random, that of --api-key-file, or LLMAPI_KIT_API_KEY from the environment; it is written to a file that
    only you can read.

    Without a model, MODEL_PATH, MODEL_NAME, MODEL_TYPE and MMPROJ_PATH in the environment choose one.
    """
    with _errors_as_lines():
        with uncollected():
            from llmapi_kit import kit
            from llmapi_kit.checkpoints.choice import Choice
            from llmapi_kit.cli.serve_flags import ServeFlags, read_flags
            from llmapi_kit.cli.tunnel_flags import tunnel_options
            from llmapi_kit.notebook import display
            from llmapi_kit.notebook.snippets import curl_snippet
            from llmapi_kit.server.endpoint import Endpoint

        # Otherwise warnings would only be in the server's own buffer
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        display.install()
        done = threading.Event()
        flags = ServeFlags(
            models=models or (),
            base_model=base_model,
            lora=lora or (),
            tokenizer=tokenizer,
            device=device,
            gpus=gpus,
            only_cpu=only_cpu,
            dtype=dtype,
            quantize=quantize,
            load_in_8bit=load_in_8bit,
            name=name,
            aliases=alias or (),
            default=default,
            max_slots=max_slots,
            context_length=context_length,
            num_threads=num_threads,
            process=process,
            replicas=replicas,
            cluster=cluster,
            max_replicas=max_replicas,
            tensor_parallel=tensor_parallel,
            revision=revision,
            subfolder=subfolder,
            trust_remote_code=trust_remote_code,
            draft=draft,
            draft_tokens=draft_tokens,
            gguf={
                "n_gpu_layers": n_gpu_layers,
                "kv_cache_dtype": kv_cache_dtype,
                "flash_attn": flash_attn,
                "use_mmap": mmap,
                "use_mlock": mlock or None,
                "rope_scaling": rope_scaling,
                "rope_freq_base": rope_freq_base,
                "rope_freq_scale": rope_freq_scale,
                "isolate": isolate,
                "mmproj": mmproj,
            },
            api_key=api_key,
            api_key_file=api_key_file,
        )
        options = read_flags(flags)
        public = tunnel_options(tunnel_option or ())
        endpoint = Endpoint(host=host, port=port, api_key=options.api_key, tunnel=tunnel, tunnel_options=public)
        kit.check_launch(options.models, endpoint, options=options.load, **options.launch)
        is_one = len(options.models) == 1
        print(f"{'Loading' if is_one else 'Serving'} {', '.join(options.models)} ...", flush=True)
        models_to_serve: list[Any] = [Choice(model, options.load) for model in options.models]
        launch: dict[str, Any] = {
            "port": port,
            "host": host,
            "api_key": options.api_key,
            "tunnel": tunnel,
            "tunnel_options": public,
            **options.launch,
            **options.cluster,
        }
        with reporting(_print_step):
            # In a cluster they are loaded as they are launched, which Ctrl-C is to end as well
            if options.cluster:
                server = kit.launch(models_to_serve, **launch)
            else:
                models_to_serve = [kit.load(model, lazy=not is_one) for model in models_to_serve]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: done.set())
        if not options.cluster:
            server = kit.launch(models_to_serve, **launch)
        print(server)
        print(f"  key in  {server.key_file}\n")
        print(f"{curl_snippet(server.url, server.key_file, server.models[0])}\n\nServing until Ctrl-C.", flush=True)
        while server.is_running and not done.wait(1):
            pass
        print("\nStopping ...", flush=True)
        kit.stop_all(drain_s=server.settings.drain_s)


@app.command()
def share(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Launch a server of this model, and share that.", show_default=False),
    ] = None,
    tunnel: Annotated[str, typer.Option(help=TUNNEL_HELP)] = "auto",
    tunnel_option: Annotated[list[str] | None, typer.Option(help=TUNNEL_OPTION_HELP, show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(help="Of the server to share. Default: this machine's newest.", show_default=False)
    ] = None,
) -> None:
    """Give a server a public URL until Ctrl-C.

    The newest server of yours on this machine, a notebook's too, goes on when the sharing ends. Where none runs, or a
    MODEL is named, one is launched: the same as 'serve MODEL --tunnel auto'.
    """
    with _errors_as_lines():
        from llmapi_kit.cli.share import find_server, share_until
        from llmapi_kit.cli.tunnel_flags import tunnel_options

        options = tunnel_options(tunnel_option or ())
        record = None if models else find_server(port)
        if record is not None:
            logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
            # What it warns of is shown as it happens
            logging.getLogger("llmapi_kit.tunnels.watcher").setLevel(logging.ERROR)
            done = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: done.set())
            share_until(done, record, tunnel, options)
            return
    serve(models, tunnel=tunnel, tunnel_option=tunnel_option, port=8000 if port is None else port)


@app.command()
def chat(
    host: Annotated[
        str | None, typer.Option("--host", "--url", help="The server; default: this machine's newest.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the server's first, or the bot's.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    bot: Annotated[str | None, typer.Option(help="Chat in a session with this bot, such as 'chatgpt'.")] = None,
) -> None:
    """Chat with a running server. /help lists the commands, Ctrl-C ends an answer, Ctrl-D leaves.

    The key of a server on this machine is found by itself; for another one set LLMAPI_KIT_API_KEY.
    """
    with _errors_as_lines():
        from llmapi_kit import kit
        from llmapi_kit.cli import terminal_chat
        from llmapi_kit.client import LLMClient
        from llmapi_kit.config import load_settings

        remote = kit.connect(host)
        with contextlib.ExitStack() as open_things:
            open_things.enter_context(terminal_chat.line_history(load_settings()))
            partner: terminal_chat.Partner
            if bot is not None:
                settings = {"model": model} if model else {}
                client = LLMClient(remote.url, bot=bot, apikey=remote.api_key, system=system, settings=settings)
                open_things.enter_context(client)
                client.start_session()
                partner = terminal_chat.BotPartner(client)
            else:
                partner = terminal_chat.ModelPartner(remote.client(), model or remote.models()[0], system or "")
            print(f"{partner.name} at {remote.url}. /help lists the commands, Ctrl-D leaves.")
            terminal_chat.TerminalChat(partner).run()


@app.command()
def doctor() -> None:
    """Check this machine and say what is missing."""
    from llmapi_kit.notebook.doctor import doctor as examine

    report = examine()
    print(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are, or shall be copied to.")] = Path("notebooks"),
) -> None:
    """Open JupyterLab on the notebooks; copies them to FOLDER first where they are not there."""
    with _errors_as_lines():
        if importlib.util.find_spec("jupyterlab") is None:
            raise MissingDependencyError("jupyterlab", "notebook", "Opening the notebooks")
        if not any(folder.glob("0*.ipynb")):
            source = Path(__file__).parents[1] / "_notebooks"
            if not source.is_dir():
                source = Path(__file__).parents[2] / "notebooks"
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            print(f"Copied the notebooks to {folder}/")
        command = [sys.executable, "-m", "jupyterlab", "--notebook-dir", str(folder)]
        if os.name == "posix" and os.geteuid() == 0:  # the rule on rented machines and in containers
            command.append("--allow-root")
        raise typer.Exit(subprocess.run(command, check=False).returncode)


def _print_step(progress: Progress) -> None:
    """A line for each step; how far it is would be one for every few bytes."""
    if progress.done is None:
        print(f"  {progress.step} ...", flush=True)
