"""A process that owns a tunnel, standing for a kernel that gets interrupted, killed or simply ends.

    python owner.py '{"agent": PATH, "state_dir": PATH, "then": "wait" | "exit" | "fork"}'

It prints one JSON line when the tunnel is up, and one after each SIGINT. `wait` sleeps until it is killed, `exit` ends
without stopping anything, `fork` lets a forked child end by itself first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from llmapi_kit.tunnels import TunnelSettings, open_tunnel


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    order = json.loads(sys.argv[1])
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    settings = TunnelSettings(
        state_dir=Path(order["state_dir"]), auth_token="a-token", ngrok_path=Path(order["agent"]), timeout_s=20
    )
    tunnel = open_tunnel("ngrok", port=8000, settings=settings)
    tunnel.start()
    # A child as a naive program would start it; it shows that the interrupt reaches children at all.
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    say(state=tunnel.status().state, naive_child=child.pid)
    if order["then"] == "fork":
        pid = os.fork()
        if pid == 0:
            sys.exit(0)  # runs the exit hooks, as a forked worker of a library may
        os.waitpid(pid, 0)
        say(state=tunnel.status().state)
    if order["then"] == "exit":
        child.kill()
        child.wait()
        return
    while True:
        if interrupted.wait(0.05):
            interrupted.clear()
            say(state=tunnel.status().state, naive_child_ended_by=child.wait(10))


if __name__ == "__main__":
    main()
