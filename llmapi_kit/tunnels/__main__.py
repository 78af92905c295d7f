"""``python -m llmapi_kit.tunnels PORT``: a public address for whatever listens on a port, until this program ends.

What `code-server.sh --tunnel` runs. It prints the address in a line of its own.
"""

from __future__ import annotations

import signal
import sys
import threading

from llmapi_kit.config import load_settings
from llmapi_kit.errors import LlmApiKitError
from llmapi_kit.places import tunnel_policy
from llmapi_kit.tunnels import open_tunnel, tunnel_settings


def main(arguments: list[str]) -> int:
    """Open a tunnel and keep it open until the program is interrupted or told to end; the exit status."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        sys.stderr.write("Usage: python -m llmapi_kit.tunnels PORT\n")
        return 2
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = tunnel_settings(state_dir=load_settings().folder("tunnels"))
        tunnel = open_tunnel("ngrok", port=int(arguments[0]), settings=settings)
        if (rule := tunnel_policy()) is not None:
            sys.stderr.write(f"{rule}\n")
        sys.stdout.write(f"{tunnel.start()}\n")
        sys.stdout.flush()
    except LlmApiKitError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    try:
        while not ended.wait(1.0):
            if tunnel.status().state == "down":
                sys.stderr.write(f"The tunnel is down: {tunnel.status().reason}\n")
                return 1
    finally:
        tunnel.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
