"""``llmapi-kit serve``: its flags, and a server of what they say until Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmapi_kit.checkpoints.heavy_imports import uncollected
from llmapi_kit.cli.error_lines import errors_as_lines
from llmapi_kit.cli.tunnel_flags import TUNNEL_HELP, TUNNEL_OPTION_HELP, tunnel_options
from llmapi_kit.progress import Progress, reporting

if TYPE_CHECKING:
    from llmapi_kit.cli.serve_flags import ServeOptions
    from llmapi_kit.server.endpoint import Endpoint
    from llmapi_kit.server.server import Server

MODEL, PLACE, NAMES, SERVER = "The model", "Where it runs", "Several models, and names", "The server"
GGUF = "GGUF files"


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
    with errors_as_lines():
        with uncollected():
            from llmapi_kit import kit
            from llmapi_kit.cli.serve_flags import ServeFlags, read_flags
            from llmapi_kit.notebook import display
            from llmapi_kit.server.endpoint import Endpoint

        # Otherwise warnings would only be in the server's own buffer
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        display.install()
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
        endpoint = Endpoint(
            host=host,
            port=port,
            api_key=options.api_key,
            tunnel=tunnel,
            tunnel_options=tunnel_options(tunnel_option or ()),
        )
        kit.check_launch(options.models, endpoint, options=options.load, **options.launch)
        _serve_until_stopped(options, endpoint)


def _serve_until_stopped(options: ServeOptions, endpoint: Endpoint) -> None:
    """Load the models and serve them until Ctrl-C, or the server's end."""
    from llmapi_kit import kit
    from llmapi_kit.notebook.snippets import curl_snippet

    is_one = len(options.models) == 1
    print(f"{'Loading' if is_one else 'Serving'} {', '.join(options.models)} ...", flush=True)
    server, done = _launch(options, endpoint)
    print(server)
    print(f"  key in  {server.key_file}\n")
    print(f"{curl_snippet(server.url, server.key_file, server.models[0])}\n\nServing until Ctrl-C.", flush=True)
    while server.is_running and not done.wait(1):
        pass
    print("\nStopping ...", flush=True)
    kit.stop_all(drain_s=server.settings.drain_s)


def _launch(options: ServeOptions, endpoint: Endpoint) -> tuple[Server, threading.Event]:
    """A server of these models, and what Ctrl-C sets from when they are loaded; until then it ends the program."""
    from llmapi_kit import kit
    from llmapi_kit.checkpoints.choice import Choice

    models: list[Any] = [Choice(model, options.load) for model in options.models]
    launch: dict[str, Any] = {
        "port": endpoint.port,
        "host": endpoint.host,
        "api_key": endpoint.api_key,
        "tunnel": endpoint.tunnel,
        "tunnel_options": endpoint.tunnel_options,
        **options.launch,
        **options.cluster,
    }
    with reporting(_print_step):
        # In a cluster they are loaded as they are launched, which Ctrl-C is to end as well
        launched = kit.launch(models, **launch) if options.cluster else None
        loaded = [kit.load(model, lazy=len(models) > 1) for model in models] if launched is None else []
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    return launched if launched is not None else kit.launch(loaded, **launch), done


def _print_step(progress: Progress) -> None:
    """A line for each step; how far it is would be one for every few bytes."""
    if progress.done is None:
        print(f"  {progress.step} ...", flush=True)
