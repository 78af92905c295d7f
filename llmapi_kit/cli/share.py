"""``llmapi-kit share``: a public URL for a server that runs already, for as long as this program does."""

from __future__ import annotations

import threading
import time

from llmapi_kit.client.running_servers import RunningServers, ServerRecord
from llmapi_kit.config import load_settings
from llmapi_kit.errors import ServerNotFoundError
from llmapi_kit.places import tunnel_policy
from llmapi_kit.server.outside_share import OutsideShare
from llmapi_kit.tunnels import TunnelStatus

LOOK_S = 0.5
# A server that another one takes the place of is away for a moment
GONE_AFTER_S = 3.0


def find_server(port: int | None) -> ServerRecord | None:
    """The newest server of this user on this machine, or the one on a port; None where none runs.

    Raises:
        ServerNotFoundError: others run, but none on that port.
    """
    records = RunningServers(load_settings()).running()
    if port is None or not records:
        return records[0] if records else None
    found = next((record for record in records if record.port == port), None)
    if found is None:
        ports = ", ".join(str(record.port) for record in records)
        raise ServerNotFoundError(f"No server of llmapi_kit runs on port {port}; there are some on {ports}.")
    return found


def share_until(done: threading.Event, record: ServerRecord, kind: str, options: dict[str, object]) -> None:
    """Keep a public URL open until the event is set or the server is gone; say what becomes of it.

    Raises:
        TunnelError: it did not open.
        ConfigError: the server has no key, or a short one, or an option can't be used.
    """
    if record.public_url is not None:
        print(f"{record.url} is public already: {record.public_url}/v1")
        return
    settings = load_settings()
    registry = RunningServers(settings)
    if (rule := tunnel_policy()) is not None:
        print(rule)
    print(f"Sharing {', '.join(record.models)} at {record.url} ...", flush=True)
    shown: TunnelStatus | None = None
    with OutsideShare(record, kind, {"on_progress": _print_step, **options}, settings) as share:
        print(f"  key in  {registry.key_file(record)}")
        seen_at = time.monotonic()
        while not done.wait(LOOK_S):
            if share.tunnel.status() != shown:
                shown = share.tunnel.status()
                print(_in_words(share.tunnel.kind, shown), flush=True)
            if any(each.instance == record.instance for each in registry.running()):
                seen_at = time.monotonic()
            elif time.monotonic() - seen_at > GONE_AFTER_S:
                print("The server has ended.")
                return
    print("\nIt is shared no more; the server goes on.", flush=True)


def _in_words(kind: str, status: TunnelStatus) -> str:
    address = f"{status.public_url}/v1" if status.public_url else "-"
    why = f": {status.reason}" if status.reason else ""
    return f"  public  {address}  ({kind}, {status.state}{why})"


def _print_step(step: str) -> None:
    print(f"  {step} ...", flush=True)
