"""Where this process runs: a hosted notebook, a rented machine or neither, and what matters there, in one line each.

Only looks at the environment and at what is imported already; asks nobody. A place says how a server on it is reached
from outside, and what the host's rules are about that.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STUDIO_LAB_HOME = Path("/home/studio-lab-user")


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of machine that notebooks run on.

    Attributes:
        name: for people.
        is_here: whether this process runs there.
        note: what matters there, in one line.
        tunnel_rule: what the host's rules say about tunnels, to be read before one is opened; None for nothing known.
        url: where a server on a port is reached from outside without a tunnel; None where it is not.
    """

    name: str
    is_here: Callable[[], bool]
    note: Callable[[], str]
    tunnel_rule: str | None = None
    url: Callable[[int], str | None] = lambda port: None


def is_jupyter_kernel() -> bool:
    """Whether cells run here, in a kernel; not so in an IPython terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def is_colab() -> bool:
    """Whether this is a Colab kernel, which imports `google.colab` before the first cell.

    A program that a cell starts has Colab's environment variables too, but no Colab page to talk to, so the module
    is what counts. Source: https://github.com/huggingface/diffusers/pull/8408.
    """
    return "google.colab" in sys.modules


def is_kaggle() -> bool:
    """Whether this is a Kaggle kernel."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def has_server_proxy() -> bool:
    """Whether Jupyter's server passes requests on to ports of its machine."""
    try:
        importlib.metadata.version("jupyter-server-proxy")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def here() -> Place | None:
    """The place this is; None for a machine like any other."""
    return next((place for place in PLACES if place.is_here()), None)


def tunnel_policy() -> str | None:
    """What this host's rules say about tunnels, to be read before one is opened; None where nothing is known."""
    place = here()
    return place.tunnel_rule if place is not None else None


def outside_url(port: int) -> str | None:
    """Where a server on a port is reached from outside without a tunnel; None where it is not, or not known."""
    place = here()
    return place.url(port) if place is not None else None


def _has(*names: str) -> Callable[[], bool]:
    return lambda: any(name in os.environ for name in names)


def _says(text: str) -> Callable[[], str]:
    return lambda: text


def _runpod_url(port: int) -> str:
    return f"https://{os.environ['RUNPOD_POD_ID']}-{port}.proxy.runpod.net"


def _vast_url(port: int) -> str | None:
    """Ports of the container stand behind others of a shared address.

    Source: https://docs.vast.ai/guides/instances/connect/networking.md
    """
    address, outside = os.environ.get("PUBLIC_IPADDR"), os.environ.get(f"VAST_TCP_PORT_{port}")
    return f"http://{address}:{outside}" if address and outside else None


def _codespaces_url(port: int) -> str | None:
    name = os.environ.get("CODESPACE_NAME")
    domain = os.environ.get("GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN", "app.github.dev")
    return f"https://{name}-{port}.{domain}" if name else None


def _hub_url(port: int) -> str | None:
    """Through jupyter-server-proxy, where it is there; without the host where the hub does not tell it."""
    if not has_server_proxy():
        return None
    host = os.environ.get("JUPYTERHUB_HOST") or os.environ.get("JUPYTERHUB_PUBLIC_HUB_URL", "").rstrip("/")
    host = host.removesuffix("/hub").rstrip("/")
    return f"{host}{os.environ.get('JUPYTERHUB_SERVICE_PREFIX', '/')}proxy/{port}"


def _hub_note() -> str:
    if has_server_proxy():
        return (
            "jupyter-server-proxy passes requests on at <this page's host>"
            f"{os.environ.get('JUPYTERHUB_SERVICE_PREFIX', '/')}proxy/PORT, for those who are logged in to the hub; "
            "programs elsewhere need a tunnel."
        )
    return "The hub shows no ports of this machine: install jupyter-server-proxy beside Jupyter, or open a tunnel."


def _ssh_note() -> str:
    address = os.environ.get("SSH_CONNECTION", "").split()
    host = address[2] if len(address) == 4 else "this-machine"
    return f"Reach a server from your own machine without a tunnel: ssh -L 8000:127.0.0.1:8000 {host}"


PLACES = (
    Place(
        "Google Colab",
        is_colab,
        _says(
            "has a torch and an ipywidgets of its own: don't upgrade either in a running session, which breaks it. "
            "Keep tokens in its secrets; a session ends after some hours, and what is not in Drive is lost then."
        ),
        "Colab's free tier does not allow its machines to be used mainly through a web page or as a server for "
        "others; it may end the session. Read https://research.google.com/colaboratory/faq.html before you open "
        "a tunnel, or use a paid plan.",
    ),
    Place(
        "Kaggle",
        is_kaggle,
        _says("needs Settings > Internet on for downloads and tunnels; keep tokens in Add-ons > Secrets."),
        "Kaggle's rules forbid many kinds of tunnels, and breaking them may cost the account. Read "
        "https://www.kaggle.com/terms before you open one.",
    ),
    Place(
        "RunPod",
        _has("RUNPOD_POD_ID"),
        _says(
            "passes on the HTTP ports that the pod was made with, to servers with host='0.0.0.0', and cuts a request "
            "after 100 s of silence: stream. Only /workspace outlives the pod."
        ),
        url=_runpod_url,
    ),
    Place(
        "vast.ai",
        _has("VAST_CONTAINERLABEL", "VAST_TCP_PORT_22"),
        _says(
            "passes on the ports that the instance was made with (-p 8000:8000), without TLS and at another number: "
            "host='0.0.0.0' and the key are seen by everybody in between; ssh -L or a tunnel hides them."
        ),
        url=_vast_url,
    ),
    Place(
        "AutoDL",
        lambda: any(name.startswith("AutoDL") for name in os.environ),
        _says(
            "shows port 6006 only: kit.launch(…, port=6006), and open 'custom services' in its console. Set "
            "HF_ENDPOINT to a mirror of the hub, and HF_HOME to /root/autodl-tmp, where the large disk is."
        ),
    ),
    Place(
        "Lightning AI",
        _has("LIGHTNING_CLOUD_SPACE_ID", "LIGHTNING_CLOUDSPACE_HOST"),
        _says("shows a port through its API builder or port viewer; a free studio sleeps when nobody uses it."),
    ),
    Place(
        "SageMaker Studio Lab",
        lambda: Path.home() == STUDIO_LAB_HOME,
        _says(
            "keeps 15 GB, and ends a session after 4 hours with a GPU, 12 without (8 a day); HF_HOME=/tmp/hf keeps "
            "models off the small disk."
        ),
    ),
    Place(
        "GitHub Codespaces",
        lambda: os.environ.get("CODESPACES") == "true",
        _says(
            "forwards a port when a server opens it, to you alone; make it public in the Ports view, or programs get a "
            "login page. It has no GPU, and sleeps after 30 minutes."
        ),
        url=_codespaces_url,
    ),
    Place("JupyterHub", _has("JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_API_TOKEN"), _hub_note, url=_hub_url),
    Place("a machine over ssh", _has("SSH_CONNECTION", "SSH_CLIENT"), _ssh_note),
)
