"""What to paste to use a server: a curl line and lines of Python. No snippet ever holds a key.

Knows nothing of how snippets are shown; the card, the demo and the command line use them.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from llmapi_kit.config import KEY_VARIABLE

QUESTION = "Hello!"


def curl_snippet(url: str, key_file: str | None, model: str, *, key_variable: str | None = None) -> str:
    """A shell command that asks the server; the shell reads the key from its file or a variable.

    Args:
        url: the server's, without ``/v1``.
        key_file: the file that holds the key; None for a server without one.
        model: the model's name.
        key_variable: an environment variable that holds the key, instead of the file: for other machines.
    """
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]}, ensure_ascii=False)
    lines = [f"curl {shlex.quote(url + '/v1/chat/completions')}", "-H 'Content-Type: application/json'"]
    if key_variable is not None:
        lines.append(f'-H "Authorization: Bearer ${key_variable}"')
    elif key_file is not None:
        # Inside $( ) quotes begin anew, so the path is quoted on its own
        lines.append(f'-H "Authorization: Bearer $(cat {_quoted_path(key_file)})"')
    return " \\\n  ".join([*lines, f"-d {shlex.quote(body)}"])


def _quoted_path(path: str) -> str:
    """A path for a shell; below the home folder without the user's name, as notebooks get shared."""
    home = f"{Path.home()}/"
    rest = path.removeprefix(home)
    return f'"$HOME"/{shlex.quote(rest)}' if path.startswith(home) else shlex.quote(path)


def python_snippet(url: str, model: str) -> str:
    """Python for another notebook or program of this user on this machine: the kit finds the key."""
    return "\n".join(
        [
            "import llmapi_kit as kit",
            "",
            f"client = kit.connect({_literal(url)}).client()",
            *_ask(model),
        ]
    )


def openai_snippet(url: str, model: str, *, has_key: bool = True) -> str:
    """Python for any machine with the `openai` package; the key comes from the environment."""
    key = f'os.environ["{KEY_VARIABLE}"]' if has_key else '"none"'
    return "\n".join(
        [
            *(["import os", ""] if has_key else []),
            "from openai import OpenAI",
            "",
            "client = OpenAI(",
            f"    base_url={_literal(url + '/v1')},",
            f"    api_key={key},",
            ")",
            *_ask(model),
        ]
    )


def _literal(text: str) -> str:
    """A string as Python writes it, in double quotes; a JSON string is one."""
    return json.dumps(text, ensure_ascii=False)


def _ask(model: str) -> list[str]:
    return [
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]',
        f"answer = client.chat.completions.create(model={_literal(model)}, messages=messages)",
        "print(answer.choices[0].message.content)",
    ]
