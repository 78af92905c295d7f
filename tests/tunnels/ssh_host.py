"""An OpenSSH server on loopback, run as the current user with throw-away keys.

A listener of the test's own accepts each connection and hands it to an ``sshd -i``: so the port is any free one, and a
connection can be cut, or new ones refused, at the moment that a test chooses.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
# Where Debian's sshd puts its unprivileged part, if root runs it
PRIVILEGE_SEPARATION = Path("/run/sshd")

CONFIG = """
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
PermitRootLogin prohibit-password
GatewayPorts {gateway_ports}
AllowTcpForwarding remote
"""


@dataclass(frozen=True)
class SshKeys:
    """The host's key, and the one that opens it."""

    folder: Path

    @property
    def identity(self) -> Path:
        return self.folder / "identity"

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])


def make_keys(folder: Path) -> SshKeys:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "identity", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=30)
    shutil.copy(folder / "identity.pub", folder / "authorized_keys")
    return SshKeys(folder)


class SshHost:
    """The host; a context manager."""

    def __init__(self, keys: SshKeys, folder: Path, *, gateway_ports: str = "clientspecified") -> None:
        self.keys = keys
        self.num_logins = 0
        self._log = folder / "sshd.log"
        self._config = folder / "sshd_config"
        self._config.write_text(CONFIG.format(folder=keys.folder, gateway_ports=gateway_ports))
        self._listener = socket.create_server(("0.0.0.0", 0))
        self._sessions: list[subprocess.Popen[bytes]] = []
        self._is_closed = False
        self.refuses = False
        self._thread = threading.Thread(target=self._accept)

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def cut(self) -> None:
        """End every connection, as a network that fails would."""
        for session in self._sessions:
            if session.poll() is None:
                for process in (*psutil.Process(session.pid).children(recursive=True), session):
                    process.kill()
                session.wait()

    def __enter__(self) -> SshHost:
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._is_closed:
                    return
                if self.refuses:
                    continue
                with self._log.open("ab") as log:
                    self._sessions.append(
                        subprocess.Popen(
                            [SSHD, "-i", "-e", "-f", str(self._config)], stdin=connection, stdout=connection, stderr=log
                        )
                    )
                self.num_logins += 1
