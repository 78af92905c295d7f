"""Bind the server's port in the caller's thread, so that a port in use is an error in the cell, naming its owner.

Knows nothing of uvicorn or of who will listen.
"""

from __future__ import annotations

import errno
import os
import socket
import weakref

import psutil

from llmapi_kit.errors import ConfigError, PortInUseError

LISTEN_BACKLOG = 512
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - looked up; each with where this machine reaches it
DEFAULT_PORT = 8000
PORTS_TO_TRY = 20

_bound: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens: connections wait in its backlog until somebody accepts them.

    Args:
        host: an address of this machine, or a name for one.
        port: 0 picks a free one.

    Raises:
        PortInUseError: the port is taken; the message says by whom, where that can be seen.
        ConfigError: the address can't be bound for another reason.
    """
    sock = _bind(host, port)
    try:
        sock.listen(LISTEN_BACKLOG)
    except OSError as exc:
        sock.close()
        raise _explain(exc, host, port) from exc
    except BaseException:
        sock.close()
        raise
    _bound.add(sock)
    return sock


def pick_port(host: str) -> int:
    """The default port, or the next one that is free; 0, for any, where none of the first few is.

    Raises:
        ConfigError: the address can't be bound.
    """
    for port in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TO_TRY):
        try:
            check_free(host, port)
        except PortInUseError:
            continue
        return port
    return 0


def check_free(host: str, port: int) -> None:
    """Raise what `bind` would raise; holds nothing."""
    _bind(host, port).close()


def network_url(host: str, port: int) -> str | None:
    """Where others on the network may reach a server of this machine; None where there is no such address.

    Args:
        host: that it is bound to.
        port: likewise.
    """
    address = _network_address() if host in WILDCARDS else host
    return f"http://{f'[{address}]' if ':' in address else address}:{port}" if address else None


def _network_address() -> str | None:
    """An address of this machine that is not loopback; asks nobody."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return str(each.address)
    return None


def _bind(host: str, port: int) -> socket.socket:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"port is {port!r}; it must be 0 (any free port) to 65535.")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would share a port that somebody listens on
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise _explain(exc, host, port) from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _explain(error: OSError, host: str, port: int) -> PortInUseError | ConfigError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"Port {port} is in use by another program{_owner(port)}. Pass port=0 to pick a free one."
        )
    advice = ""
    if isinstance(error, PermissionError) and port < 1024:
        advice = " Ports below 1024 belong to the administrator; use one above, or 0 for any free one."
    elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        advice = " Use 127.0.0.1 for this machine only, or 0.0.0.0 for all of its addresses."
    return ConfigError(f"The server can't bind {host}:{port}: {error.strerror or error}.{advice}")


def _owner(port: int) -> str:
    """The text " (pid 4121, python)" where the system tells, else nothing."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            is_it = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if is_it and connection.pid:
                return f" (pid {connection.pid}, {psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""


def _let_go_in_child() -> None:
    """A forked child, such as a data loader's worker, must not hold the port when its parent is gone."""
    for sock in list(_bound):
        if sock.fileno() >= 0:
            os.close(sock.detach())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
