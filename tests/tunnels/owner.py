"""A process that owns a tunnel, standing for a kernel that gets interrupted, killed or simply ends.

    python owner.py '{"kind": …, "settings": {…}, "then": "wait" | "exit" | "fork"}'

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

import psutil

from llmapi_kit.tunnels import TunnelSettings
from llmapi_kit.tunnels.watcher import WatchedTunnel


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def state_of(tunnel: WatchedTunnel) -> str:
    """Of the agent: the address that a stand-in hands out leads nowhere."""
    return "up" if tunnel.is_open else "down"


def main() -> None:
    order = json.loads(sys.argv[1])
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    settings = {**order["settings"], "state_dir": Path(order["settings"]["state_dir"])}
    tunnel = WatchedTunnel(order["kind"], port=8000, settings=TunnelSettings(**settings, timeout_s=20))
    tunnel.start()
    agent = psutil.Process().children()[0]
    # A child as a naive program would start it; it shows that the interrupt reaches children at all.
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    say(state=state_of(tunnel), naive_child=child.pid, agent=agent.pid)
    if order["then"] == "fork":
        pid = os.fork()
        if pid == 0:
            sys.exit(0)  # runs the exit hooks, as a forked worker of a library may
        os.waitpid(pid, 0)
        say(state=state_of(tunnel))
    if order["then"] == "exit":
        child.kill()
        child.wait()
        return
    while True:
        if interrupted.wait(0.05):
            interrupted.clear()
            say(state=state_of(tunnel), naive_child_ended_by=child.wait(60))


if __name__ == "__main__":
    main()
