"""What ngrok needs before its agent can start: a token and the agent program.

Knows nothing of running agents. `NgrokTunnel` calls `find_token` in the caller's thread, before anything is
started, and `find_agent`, which may download, in the tunnel's thread.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from pydantic import SecretStr
from pyngrok import installer
from pyngrok.exception import PyngrokError

from llmapi_kit.errors import ConfigError, TunnelAuthError, TunnelError
from llmapi_kit.tunnels.ngrok_errors import TOKEN_PAGE
from llmapi_kit.tunnels.secret_store import ask_person, find_secret

TOKEN_VARIABLE = "NGROK_AUTHTOKEN"  # noqa: S105 - a variable's name
DOWNLOAD_STALL_S = 20.0

_download_lock = threading.Lock()


def find_token(given: SecretStr | None, *, ask_host: bool = True, may_ask_person: bool = False) -> SecretStr:
    """The token: given, or from the environment, Colab's or Kaggle's secrets, ngrok's configuration, or a person.

    Args:
        given: by the user.
        ask_host: whether Colab or Kaggle may be asked, which can take a while and a click.
        may_ask_person: whether it may be typed in, unseen, where nothing else has it.

    Raises:
        TunnelAuthError: there is none; the message says where to get one and how to hand it over.
    """
    config_path = Path(installer.get_default_ngrok_dir()) / "ngrok.yml"
    if given is not None and given.get_secret_value().strip():
        return SecretStr(given.get_secret_value().strip())
    found = find_secret(TOKEN_VARIABLE, ask_host=ask_host)
    if found is not None:
        return found
    configured = SecretStr(_token_in_config(config_path).strip())
    if configured.get_secret_value():
        return configured
    if may_ask_person and (typed := ask_person(TOKEN_VARIABLE, f"ngrok's token ({TOKEN_PAGE}): ")) is not None:
        return typed
    raise TunnelAuthError(
        "ngrok needs a token, and none was found: no auth_token was given, "
        f"there is no {TOKEN_VARIABLE} in the environment or in the host's secrets, and {config_path} has none. "
        f"Get one, free of charge, at {TOKEN_PAGE}. Don't paste it into a notebook, which gets shared: "
        f"set {TOKEN_VARIABLE} before Jupyter starts; in Colab or Kaggle store it as a secret named "
        f"{TOKEN_VARIABLE}, and give the notebook access to it."
    )


def _token_in_config(path: Path) -> str:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""  # not passed on: its message would quote the file, and so the token
    if not isinstance(config, Mapping):
        return ""
    agent = config.get("agent")  # since version 3 of the format; at the top before
    token = (agent.get("authtoken") if isinstance(agent, Mapping) else None) or config.get("authtoken")
    return token if isinstance(token, str) else ""


def check_agent_path(path: Path) -> Path:
    """The path the user named, made absolute.

    Raises:
        ConfigError: no program is there.
    """
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"There is no ngrok agent at ngrok_path {path}. Leave it out to have one found.")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"ngrok_path {path} may not be executed. Run: chmod +x {path}")
    return path


def find_agent(say: Callable[[str], None]) -> Path:
    """The agent program on PATH, else where pyngrok keeps its own, else downloaded to there.

    Blocks while it downloads; `say` gets a line then.

    Raises:
        TunnelError: the download failed.
    """
    on_path = _agent_on_path()
    if on_path is not None:
        return on_path
    default = Path(installer.get_default_ngrok_dir()) / installer.get_ngrok_bin()
    target = Path(os.environ.get("PYNGROK_NGROK_PATH") or default).expanduser().absolute()
    with _download_lock:
        if not target.is_file():
            say(f"Downloading the ngrok agent to {target} (about 10 MB, once)")
            _download(target)
            say("The ngrok agent is downloaded")
    return target


def _agent_on_path() -> Path | None:
    for folder in os.get_exec_path():
        candidate = Path(folder) / "ngrok"
        if candidate.is_file() and os.access(candidate, os.X_OK) and not _is_pyngrok_command(candidate):
            return candidate.absolute()
    return None


def _is_pyngrok_command(path: Path) -> bool:
    """Is this the Python command that pyngrok installs under the name `ngrok`?

    It starts the agent as a child of its own; ending the command would leave the agent alone.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and re.search(rb"(from|import) pyngrok", head) is not None


def _download(target: Path) -> None:
    # Into a folder beside the target, then renamed: a start that is given up must not leave half a program.
    draft = target.parent / f".download-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        installer.install_ngrok(str(draft / target.name), timeout=DOWNLOAD_STALL_S)
        (draft / target.name).replace(target)
    except (PyngrokError, OSError) as exc:
        raise TunnelError(
            f"The ngrok agent could not be downloaded: {exc}. Install it from https://ngrok.com/download "
            "so that it is on PATH, or pass its place as ngrok_path."
        ) from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)
