"""Finds a token without anybody pasting it into a notebook: the environment, then Colab's or Kaggle's secrets.

What is found is wrapped so that no repr shows it. Runs in the cell's own thread: both hosts ask the browser through
the kernel's main thread.
"""

from __future__ import annotations

import getpass
import os
import sys
import threading

from pydantic import SecretStr

from llmapi_kit.places import is_colab, is_kaggle

# What a host or a person answered, so that a tunnel that is opened again asks nobody
_answers: dict[str, str] = {}


def find_secret(name: str, *, ask_host: bool = True) -> SecretStr | None:
    """A secret by name; None where nobody has it.

    Colab's look-up raises where a notebook has no access to the secret, and times out outside of Colab's own page;
    both count as not found here. Source: https://github.com/googlecolab/colab-vscode/issues/215.

    Args:
        name: such as ``NGROK_AUTHTOKEN``; the environment variable and the secret have the same name.
        ask_host: whether Colab or Kaggle may be asked, which can take a while and a click; only in the main thread.
    """
    value = os.environ.get(name, "").strip()
    if not value and ask_host and _is_main_thread() and (answer := _ask_host(name)):
        _answers[name] = answer
    value = value or _answers.get(name, "")
    return SecretStr(value) if value else None


def ask_person(name: str, prompt: str) -> SecretStr | None:
    """A secret that a person types in unseen; None where nobody can be asked, or nothing was typed.

    Asked for in the main thread only, where there is a terminal or a notebook whose page takes input. Kept for this
    process, and for `find_secret`.

    Args:
        name: as `find_secret` knows it.
        prompt: what the person sees.
    """
    if not _is_main_thread() or not _can_ask_person():
        return None
    try:
        value = getpass.getpass(prompt).strip()
    except (EOFError, OSError, RuntimeError, NotImplementedError):  # a notebook that runs without a page
        return None
    _answers[name] = value
    return SecretStr(value) if value else None


def forget_secret(name: str) -> None:
    """Have a secret that was asked for be asked for again: it was refused."""
    _answers.pop(name, None)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _can_ask_person() -> bool:
    """Whether input is possible: a page that is open on a kernel, or a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _ask_host(name: str) -> str:
    try:
        if is_colab():
            from google.colab import userdata

            return str(userdata.get(name) or "").strip()
        if is_kaggle():
            from kaggle_secrets import UserSecretsClient  # type: ignore[import-not-found]  # Kaggle only

            return str(UserSecretsClient().get_secret(name) or "").strip()
    except Exception:  # each host has errors of its own, and none of them is worth ending a cell for
        return ""
    return ""
