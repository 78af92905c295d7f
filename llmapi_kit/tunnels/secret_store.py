"""Finds a token without anybody pasting it into a notebook: the environment, then Colab's or Kaggle's secrets.

What is found is wrapped so that no repr shows it. Runs in the cell's own thread: both hosts ask the browser through
the kernel's main thread.
"""

from __future__ import annotations

import os

from pydantic import SecretStr

from llmapi_kit.places import is_colab, is_kaggle


def find_secret(name: str, *, ask_host: bool = True) -> SecretStr | None:
    """A secret by name; None where nobody has it.

    Colab's look-up raises where a notebook has no access to the secret, and times out outside of Colab's own page;
    both count as not found here. Source: https://github.com/googlecolab/colab-vscode/issues/215.

    Args:
        name: such as ``NGROK_AUTHTOKEN``; the environment variable and the secret have the same name.
        ask_host: whether Colab or Kaggle may be asked, which can take a while and a click.
    """
    value = os.environ.get(name, "").strip() or (_ask_host(name) if ask_host else "")
    return SecretStr(value) if value else None


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
