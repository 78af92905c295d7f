"""`doctor()`: looks at this machine and says what is fine, what is missing and what to do about it.

Each check is a function that yields `Check`s; a check that breaks is itself a finding. Uses no network. Called from
notebook 01 and ``llmapi-kit doctor``; runs in the caller's thread and takes a second or two, for torch.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.client.running_servers import RunningServers
from llmapi_kit.config import load_settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.loading.load_request import resolve
from llmapi_kit.notebook import environment as env
from llmapi_kit.notebook.report import Check, Report
from llmapi_kit.places import here, is_colab, is_jupyter_kernel, is_kaggle, outside_url, tunnel_policy
from llmapi_kit.server.port import DEFAULT_PORT

PYTHON_FROM, PYTHON_TO = (3, 10), (3, 13)
MIN_MEMORY, MIN_DISK = 1 * env.GIB, 2 * env.GIB
POCKET_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
OPTIONAL_GROUPS = {"torch": "local models", "notebook": "notebooks"}  # extras, and what they are for


def doctor() -> Report:
    """Check this machine and say what to do about what is wrong.

    Looks at Python, packages, torch and CUDA, memory, disk, state folder, port, model files, hub, tunnel and widgets,
    and says what matters at this place.

    Returns:
        A report; `.ok` is False if something has to be repaired first.

    Examples:
        >>> report = kit.doctor()
        >>> [check.name for check in report.checks][:1]
        ['Python']
    """
    checks: list[Check] = []
    for examine in CHECKS:
        try:
            checks += examine()
        except Exception as exc:
            name = examine.__name__.removeprefix("check_").replace("_", " ")
            checks.append(Check("fail", name, f"could not be checked: {type(exc).__name__}: {exc}"))
    return Report(tuple(checks))


def check_python() -> Iterator[Check]:
    """A supported version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if PYTHON_FROM <= sys.version_info[:2] <= PYTHON_TO:
        yield Check("ok", "Python", version)
    elif sys.version_info[:2] > PYTHON_TO:
        yield Check("warn", "Python", f"{version} is newer than what the kit is tested on", "If it fails, use 3.13.")
    else:
        yield Check("fail", "Python", f"{version} is too old", "Use Python 3.10 to 3.13.")


def check_packages() -> Iterator[Check]:
    """What the kit requires is installed, in the versions it asks for."""
    requirements = [Requirement(text) for text in importlib.metadata.requires("llmapi-kit") or []]
    always = [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    for group in ("", *OPTIONAL_GROUPS):
        required = always
        if group:
            of_group = [
                requirement
                for requirement in requirements
                if requirement.marker and requirement.marker.evaluate({"extra": group})
            ]
            required = [each for each in of_group if each not in always]
        problems = [problem for each in required if (problem := _find_problem(each))]
        label = f"Packages for {OPTIONAL_GROUPS[group]}" if group else "Packages"
        package = f"llmapi-kit[{group}]" if group else "llmapi-kit"
        if problems:
            command = f'Install them: pip install --upgrade "{package}"'
            yield Check("warn" if group else "fail", label, ", ".join(problems), command)
        else:
            yield Check("ok", label, f"all {len(required)} are installed")


def check_torch() -> Iterator[Check]:
    """Torch can be imported, and which devices it sees."""
    version = env.version_of("torch")
    if version is None:
        yield Check("warn", "torch", "is not installed", 'Only the mock model works. pip install "llmapi-kit[torch]"')
        return
    try:
        import torch
    except (ImportError, OSError) as exc:
        yield Check("fail", "torch", f"{version} is installed but broken: {exc}", "Reinstall it; restart the kernel.")
        return
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_bytes / env.GIB:,.0f} GiB)" for gpu in env.see_gpus())
    if torch.__version__ != version:
        yield Check("fail", "torch", f"{torch.__version__} is loaded but {version} is installed", "Restart the kernel.")
    elif gpus:
        yield Check("ok", "torch", f"{version}, {gpus}")
    else:
        advice = "Large models need a GPU: choose one under Runtime > Change runtime type." if is_colab() else ""
        yield Check("ok", "torch", f"{version} on the CPU: no GPU seen", advice)


def check_compiler() -> Iterator[Check]:
    """Something that compiles the steps of models on a CPU."""
    if env.see_gpus() or env.version_of("torch") is None:
        return
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is not None:
        yield Check("ok", "C compiler", compiler)
    else:
        advice = "Install one: apt install gcc, conda install c-compiler, or xcode-select --install."
        yield Check("warn", "C compiler", "none: models on this CPU are computed in torch, which is slower", advice)


def check_memory_and_disk() -> Iterator[Check]:
    """Enough of both for a small model."""
    memory = int(psutil.virtual_memory().available)
    advice = "Close other programs or kernels, or choose a larger machine."
    yield _enough("Memory", memory, MIN_MEMORY, advice)
    disk = shutil.disk_usage(Path.home()).free
    yield _enough("Disk", disk, MIN_DISK, "Free some before you download a model.")


def check_state_folder() -> Iterator[Check]:
    """The kit may write where it keeps its state."""
    try:
        folder = load_settings().folder("servers")
        probe = folder / f".doctor.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except LlmApiKitError as exc:
        yield Check("fail", "State folder", str(exc))
    except OSError as exc:
        yield Check("fail", "State folder", f"is not writable: {exc}", "Set LLMAPI_KIT_HOME to a folder that is.")
    else:
        yield Check("ok", "State folder", str(folder.parent))


def check_port() -> Iterator[Check]:
    """The default port is free, or who has it."""
    yield port_state(DEFAULT_PORT)


def check_pocket_model() -> Iterator[Check]:
    """The shipped model is complete."""
    missing = [name for name in POCKET_FILES if not (POCKET_DIR / name).is_file()]
    if missing:
        yield Check("fail", "Pocket model", f"{', '.join(missing)} missing in {POCKET_DIR}", "Reinstall llmapi-kit.")
    else:
        try:
            resolve("pocket")
        except LlmApiKitError as exc:
            yield Check("warn", "Pocket model", "can't be loaded", str(exc))
            return
        size = sum(file.stat().st_size for file in POCKET_DIR.iterdir() if file.is_file())
        yield Check("ok", "Pocket model", f"{size / 1e6:.1f} MB, ready without a download")


def check_tunnel() -> Iterator[Check]:
    """A token for ngrok is there or not; never which. And what this host's rules say."""
    from llmapi_kit.errors import TunnelAuthError
    from llmapi_kit.tunnels.ngrok_setup import TOKEN_VARIABLE, find_token

    try:
        find_token(None, ask_host=False)
        yield Check("ok", "ngrok token", "found")
    except TunnelAuthError:
        advice = f'Only tunnel="ngrok" needs one: set {TOKEN_VARIABLE} before Jupyter starts.'
        if is_colab() or is_kaggle():
            advice = f'Only tunnel="ngrok" needs one; then the secret {TOKEN_VARIABLE} of this host is looked up.'
        yield Check("ok", "ngrok token", "none in the environment", advice)
    policy = tunnel_policy()
    if policy is not None:
        yield Check("warn", "Tunnels here", policy)


def check_host() -> Iterator[Check]:
    """What has to be known of the place that this is."""
    place = here()
    if place is not None:
        url = outside_url(DEFAULT_PORT)
        seen = f" Port {DEFAULT_PORT} is to be seen at {url}." if url else ""
        yield Check("ok", place.name, f"{place.note()}{seen}".removesuffix("."))


def check_hub() -> Iterator[Check]:
    """Where models come from, and where they are kept; the hub is not asked."""
    offline = next(
        (name for name in OFFLINE_VARIABLES if os.environ.get(name, "").lower() in ("1", "true", "yes")), None
    )
    folder = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    kept = f"models are kept in {folder.expanduser()}"
    if offline is not None:
        advice = f"Only downloaded models load; unset {offline} before Jupyter starts to download others."
        yield Check("warn", "Hugging Face hub", f"is switched off by {offline}; {kept}", advice)
    else:
        mirror = os.environ.get("HF_ENDPOINT")
        token = "a token is there" if os.environ.get("HF_TOKEN") else "no HF_TOKEN, which gated models need"
        yield Check("ok", "Hugging Face hub", f"{f'through {mirror}, ' if mirror else ''}{token}; {kept}")


def check_widgets() -> Iterator[Check]:
    """What draws buttons and chats in a cell."""
    if not is_jupyter_kernel():
        return
    missing = [name for name in ("ipywidgets", "anywidget") if env.version_of(name) is None]
    if missing:
        command = f"Install them, also where Jupyter runs: pip install {' '.join(missing)}. Then reload the page."
        yield Check("warn", "Widgets", f"{' and '.join(missing)} missing: no buttons in cells", command)
    else:
        versions = ", ".join(f"{name} {env.version_of(name)}" for name in ("ipywidgets", "anywidget"))
        yield Check("ok", "Widgets", versions)


def check_cuda() -> Iterator[Check]:
    """A GPU that the machine has is seen by torch, too."""
    if shutil.which("nvidia-smi") is None or env.version_of("torch") is None or env.see_gpus():
        return
    try:
        import torch
    except (ImportError, OSError):
        return  # said above
    built = getattr(torch.version, "cuda", None)
    what = f"is built for CUDA {built}, which the driver does not run" if built else "is built for CPUs only"
    advice = "Compare 'nvidia-smi' and https://pytorch.org/get-started: install the torch for this driver's CUDA."
    yield Check("warn", "GPU", f"nvidia-smi is here, but torch sees no GPU: torch {torch.__version__} {what}", advice)


def check_servers() -> Iterator[Check]:
    """The kit's servers that run now."""
    running = RunningServers(load_settings()).running()
    text = ", ".join(f"{', '.join(each.models)} at {each.url} (pid {each.pid})" for each in running)
    yield Check("ok", "Running servers", text or "none")


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_python,
    check_packages,
    check_torch,
    check_cuda,
    check_compiler,
    check_memory_and_disk,
    check_state_folder,
    check_port,
    check_pocket_model,
    check_tunnel,
    check_host,
    check_hub,
    check_widgets,
    check_servers,
)


def port_state(port: int) -> Check:
    """Whether a port is free, and who has it if not; nothing is connected to."""
    from llmapi_kit.errors import PortInUseError
    from llmapi_kit.server.port import bind

    name = f"Port {port}"
    own = next(
        (record for record in RunningServers(load_settings()).running() if record.port == port),
        None,
    )
    if own is not None:
        return Check("ok", name, f"has a server of the kit (pid {own.pid})", f"Use it: kit.connect({own.url!r}).")
    try:
        bind("127.0.0.1", port).close()
    except PortInUseError as exc:
        if port == DEFAULT_PORT:
            return Check("ok", name, f"is taken: {exc}", "kit.launch() takes the next one that is free.")
        return Check("warn", name, str(exc))
    return Check("ok", name, "is free")


def _enough(name: str, free: int, needed: int, advice: str) -> Check:
    text = f"{free / env.GIB:,.1f} GiB free"
    if free >= needed:
        return Check("ok", name, text)
    return Check("warn", name, f"{text}; {needed / env.GIB:.0f} GiB or more is better", advice)


def _find_problem(requirement: Requirement) -> str | None:
    """What is wrong with what is installed for one requirement; None if nothing is."""
    version = env.version_of(requirement.name)
    if version is None:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, wanted is {requirement.specifier}"
    return None
